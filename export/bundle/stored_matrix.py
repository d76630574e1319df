"""Tensors of the matrices that a graph reads: the builder's marks say which nodes those are and what they are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from palmtop.export.graph.building.mark import TABLE, Mark, experts_mark_of, mark_of
from palmtop.quantize.scheme import Scheme


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """Matrix of one linear layer or table as its node reads it.

    Attributes:
        mark: role, size and name by the builder.
        tensors: "weight" of a float32 matrix; "codes", "scales" and, unless symmetric, "zero_points" of a quantised
            one. A tensor that is not a constant is left out.
        shape: [N, K] of the codes, K of a table padded to whole groups; a float32 matrix has its tensor's shape.
        bits: bits of a code: 2, 4 or 8; 32 for float32.
        group: number of weights that share a scale; 0 for float32.
        accuracy_level: accuracy level of the kernel.
    """

    mark: Mark
    tensors: Mapping[str, ir.TensorProtocol]
    shape: tuple[int, ...]
    bits: int = 32
    group: int = 0
    accuracy_level: int = 0

    @property
    def is_quantized(self) -> bool:
        """Whether the matrix is stored as codes."""
        return self.bits != 32

    @property
    def scheme(self) -> Scheme | None:
        """Quantisation scheme; None for float32."""
        if not self.is_quantized:
            return None
        is_half = self.tensors["scales"].dtype == ir.DataType.FLOAT16
        is_symmetric = "zero_points" not in self.tensors
        return Scheme(bits=self.bits, group=self.group, symmetric=is_symmetric, scale_bits=16 if is_half else 32)


def stored_matrices(model: ir.Model) -> Iterator[StoredMatrix]:
    """Yield the matrices of a graph and its branches, in the order of their nodes; a shared one several times."""
    for node in model.graph.all_nodes():
        stored = stored_matrix(node)
        if stored is not None:
            yield stored
        yield from _of_experts(node)


def stored_matrix(node: ir.Node) -> StoredMatrix | None:
    """Return the matrix of a marked node; None for other nodes."""
    mark = mark_of(node.name, node.metadata_props)
    if mark is None:
        return None
    matrix = 0 if mark.role == TABLE else 1  # the other input has token ids or activations
    if "bits" not in node.attributes:
        weight = _constant(node, matrix)
        shape = () if weight is None else tuple(weight.shape.numpy())
        return StoredMatrix(mark, {} if weight is None else {"weight": weight}, shape)
    places = {"codes": matrix, "scales": 2, "zero_points": 3}
    found = {name: _constant(node, place) for name, place in places.items()}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    bits, group = _number(node, "bits"), _number(node, "block_size")
    if mark.role == TABLE:
        rows, packed = tensors["codes"].shape.numpy() if "codes" in tensors else (0, 0)
        return StoredMatrix(mark, tensors, (rows, packed * 8 // bits), bits, group)
    shape = _number(node, "N"), _number(node, "K")
    return StoredMatrix(mark, tensors, shape, bits, group, _number(node, "accuracy_level"))


def _of_experts(node: ir.Node) -> Iterator[StoredMatrix]:
    """Matrices of the experts of a QMoE node: parts of tensors that hold all of them."""
    mark = experts_mark_of(node.metadata_props)
    if mark is None:
        return
    bits, group = _number(node, "expert_weight_bits"), _number(node, "block_size")
    level = _number(node, "accuracy_level") if "accuracy_level" in node.attributes else 0
    sizes = {"gate_up_proj": (2 * mark.size, mark.hidden_size), "down_proj": (mark.hidden_size, mark.size)}
    places = {"gate_up_proj": (2, 3, 11), "down_proj": (5, 6, 12)}
    for linear, shape in sizes.items():
        names = ("codes", "scales", "zero_points")
        whole = {name: _constant(node, place) for name, place in zip(names, places[linear], strict=True)}
        for number, own in enumerate(mark.marks(linear, *shape)):
            there = {name: _part(t, number, len(mark.numbers)) for name, t in whole.items() if t is not None}
            yield StoredMatrix(own, there, shape, bits, group, level)


def _part(tensor: ir.TensorProtocol, number: int, count: int) -> ir.TensorProtocol:
    """One of ``count`` equal parts of a tensor along its first axis, under the tensor's name."""
    shape = tuple(int(size) for size in tensor.shape.numpy())[1:]
    if not isinstance(tensor, ir.ExternalTensor):
        return ir.tensor(tensor.numpy()[number], name=tensor.name)
    length = (tensor.length or 0) // count
    return ir.ExternalTensor(
        tensor.location,
        (tensor.offset or 0) + number * length,
        length,
        tensor.dtype,
        shape=ir.Shape(shape),
        name=tensor.name or "",
        base_dir=tensor.base_dir,
    )


def _constant(node: ir.Node, place: int) -> ir.TensorProtocol | None:
    """Tensor of a node's input as it is stored: scales may be float16 before a Cast."""
    value = node.inputs[place] if place < len(node.inputs) else None
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Cast":
        value = producer.inputs[0]
    return None if value is None else value.const_value


def _number(node: ir.Node, name: str) -> int:
    return int(node.attributes[name].as_int())
