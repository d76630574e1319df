"""Stored matrix of an adapter: float32, or codes with scales, at known offsets of a file.

Matrices are written, read back and put into a graph here; adapters and bundles are not known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import BundleError
from palmtop.export.bundle.stored_matrix import stored_matrix
from palmtop.export.checkpoint.lazy_tensor import LazyTensor
from palmtop.export.graph.building.builder import GraphBuilder, WeightSink
from palmtop.export.graph.linear import Precision, QuantizedValues, finite, matmul_nbits, widened
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import QuantizedTensor, Scheme

Tensors = dict[str, ir.TensorProtocol]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A stored [N, K] matrix and its tensors.

    Attributes:
        rows: N, number of rows.
        columns: K, number of columns.
        scheme: quantisation scheme; None for float32.
        accuracy_level: accuracy level of MatMulNBits.
        tensors: "weight" [K, N] of a float matrix; "codes", "scales" and, unless symmetric, "zero_points".
    """

    rows: int
    columns: int
    scheme: Scheme | None
    accuracy_level: int
    tensors: Tensors

    def array(self) -> NDArray[np.float32]:
        """Return the matrix dequantised, [N, K] float32."""
        if self.scheme is None:
            return np.ascontiguousarray(np.asarray(read(self.tensors["weight"]), np.float32).T)
        zeros = self.tensors.get("zero_points")
        groups = self.scheme.groups_per_row(self.columns)
        return dequantize(
            QuantizedTensor(
                scheme=self.scheme,
                columns=self.columns,
                codes=read(self.tensors["codes"]).reshape(self.rows, groups, -1),
                scales=np.asarray(read(self.tensors["scales"]), np.float32).reshape(self.rows, groups),
                zero_points=None if zeros is None else read(zeros).reshape(self.rows, -1),
            )
        )

    def add_to(self, g: GraphBuilder, name: str, x: ir.Value) -> ir.Value:
        """Add ``x @ matrix.T`` to a graph: [..., K] -> [..., N]."""
        if self.scheme is None:
            return g.op("MatMul", x, g.place(f"{name}.weight", self.tensors["weight"]), name=name)
        values = {kind: g.place(f"{name}.{kind}", tensor) for kind, tensor in self.tensors.items()}
        quantized = QuantizedValues(
            codes=values["codes"],
            scales=widened(g, f"{name}.scales", values["scales"]),
            zero_points=values.get("zero_points"),
            rows=self.rows,
            columns=self.columns,
            scheme=self.scheme,
        )
        return matmul_nbits(g, x, quantized, self.accuracy_level, name)


def expected_tensors(
    rows: int, columns: int, scheme: Scheme | None
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and type of the tensors of a matrix of this size."""
    if scheme is None:
        return {"weight": ((columns, rows), np.dtype(np.float32))}
    groups = scheme.groups_per_row(columns)
    found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        "codes": ((rows, groups, scheme.group * scheme.bits // 8), np.dtype(np.uint8)),
        "scales": ((rows, groups), np.dtype(np.float32)),
    }
    if not scheme.symmetric:
        found["zero_points"] = ((rows, -(-groups * scheme.bits // 8)), np.dtype(np.uint8))
    return found


def read(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """Return a tensor's numbers, from its file if it has one, which may be a link to another bundle's."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()
    shape, dtype = tuple(tensor.shape.numpy()), tensor.dtype.numpy()
    count = int(np.prod(shape))
    with Path(tensor.path).open("rb") as file:
        file.seek(tensor.offset or 0)
        data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise BundleError(f"{tensor.path}: tensor '{tensor.name}' ends too early")
    return np.frombuffer(data, dtype).reshape(shape)


def store(sink: WeightSink, name: str, weight: LazyTensor, precision: Precision) -> Matrix:
    """Quantise a weight into a file.

    Raises:
        CheckpointError: a value is not finite; names the tensor.
    """
    array = finite(weight, weight.array())
    scheme = precision.scheme
    if scheme is None:
        arrays: dict[str, NDArray[Any]] = {"weight": np.ascontiguousarray(array.T)}
    else:
        quantized = precision.quantizer(array, scheme)
        arrays = {"codes": quantized.codes, "scales": quantized.scales}
        if quantized.zero_points is not None:
            arrays["zero_points"] = quantized.zero_points
    return _write(sink, name, Matrix(weight.shape[0], weight.shape[1], scheme, precision.accuracy_level, {}), arrays)


def copy(sink: WeightSink, name: str, matrix: Matrix) -> Matrix:
    """Copy a matrix to another file, its bytes unchanged (scales widened to float32)."""
    return _write(sink, name, matrix, {kind: read(tensor) for kind, tensor in matrix.tensors.items()})


def _write(sink: WeightSink, name: str, like: Matrix, arrays: dict[str, NDArray[Any]]) -> Matrix:
    shapes = expected_tensors(like.rows, like.columns, like.scheme)
    tensors: Tensors = {
        kind: sink.add(f"{name}.{kind}", shape, dtype, [np.asarray(arrays[kind], dtype).reshape(shape)])
        for kind, (shape, dtype) in shapes.items()
    }
    return Matrix(like.rows, like.columns, like.scheme, like.accuracy_level, tensors)


def of_node(node: ir.Node) -> Matrix:
    """Return the matrix of a marked node of a graph.

    Raises:
        BundleError: an input is not a constant.
    """
    stored = stored_matrix(node)
    if stored is None or not {"weight", "scales"} & stored.tensors.keys():
        raise BundleError(f"decoder: node '{node.name}' reads a weight that is not a constant")
    scheme = None if stored.scheme is None else replace(stored.scheme, scale_bits=32)  # a copy's scales are widened
    return Matrix(stored.mark.rows, stored.mark.columns, scheme, stored.accuracy_level, dict(stored.tensors))


def to_json(matrix: Matrix) -> dict[str, Any]:
    """Return sizes, scheme and byte offsets; shapes and types follow from them (``expected_tensors``)."""
    scheme = matrix.scheme
    quantized = {} if scheme is None else {"group": scheme.group, "symmetric": scheme.symmetric}
    return {
        "rows": matrix.rows,
        "columns": matrix.columns,
        "bits": 32 if scheme is None else scheme.bits,
        **quantized,
        "accuracy_level": matrix.accuracy_level,
        "offsets": {kind: _offset(tensor) for kind, tensor in matrix.tensors.items()},
    }


def _offset(tensor: ir.TensorProtocol) -> int:
    assert isinstance(tensor, ir.ExternalTensor)  # written by a sink
    return tensor.offset or 0


def from_json(data: dict[str, Any], place: Callable[[str, int, tuple[int, ...], np.dtype[Any]], Any]) -> Matrix:
    """Make a matrix from JSON, the inverse of ``to_json``.

    Args:
        data: result of ``to_json``, with the types that ``pack`` has checked.
        place: returns the tensor for (kind, offset, shape, dtype).
    """
    bits = data["bits"]
    scheme = None if bits == 32 else Scheme(bits=bits, group=data["group"], symmetric=data["symmetric"])
    rows, columns = data["rows"], data["columns"]
    shapes = expected_tensors(rows, columns, scheme)
    tensors = {kind: place(kind, data["offsets"][kind], shape, dtype) for kind, (shape, dtype) in shapes.items()}
    return Matrix(rows, columns, scheme, data["accuracy_level"], tensors)
