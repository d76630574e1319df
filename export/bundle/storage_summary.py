"""Parameters, bits and bytes of a graph's tensors by class. Reads graphs, builds none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from palmtop.runtime.bundle.manifest import PartSpec

QUANTIZED_OPS = ("MatMulNBits", "GatherBlockQuantized")


@dataclass(slots=True)
class _Count:
    parameters: int = 0
    size_bytes: int = 0
    seen: set[tuple[str, int] | int] = field(default_factory=set)


def count_parts(graphs: Iterable[tuple[str, ir.Model]], adapters: Iterable[str]) -> tuple[PartSpec, ...]:
    """Return the parts of several graphs.

    Args:
        graphs: ("decoder" | "vision" | "audio", model).
        adapters: names of the adapters, to separate their tensors.

    Returns:
        One part for each class and width; bytes that two graph values share are counted once.
    """
    counts: dict[tuple[str, int, int | None], _Count] = {}
    names = tuple(adapters)
    for where, model in graphs:
        quantized: set[str] = set()
        for node in model.graph.all_nodes():
            if node.op_type in QUANTIZED_OPS:
                bits, group = (_attribute(node, key) for key in ("bits", "block_size"))
                key = (_part(where, node.name or "", names), bits, group)
                _add_quantized(counts.setdefault(key, _Count()), node, bits)
                tensors = (*(v.const_value for v in node.inputs if v is not None), stored_scales(node.inputs[2]))
                quantized.update(t.name for t in tensors if t is not None and t.name is not None)
        for graph in (model.graph, *model.graph.subgraphs()):
            for name, value in graph.initializers.items():
                tensor = value.const_value
                if tensor is not None and name not in quantized:
                    count = counts.setdefault((_part(where, name, names, is_float=True), 32, None), _Count())
                    count.parameters += int(np.prod(tensor.shape.numpy()))
                    count.size_bytes += tensor.nbytes
    return tuple(
        PartSpec(name=name, bits=bits, group=group, parameters=c.parameters, size_bytes=c.size_bytes)
        for (name, bits, group), c in counts.items()
    )


def _add_quantized(count: _Count, node: ir.Node, bits: int) -> None:
    codes = node.inputs[1] if node.op_type == "MatMulNBits" else node.inputs[0]
    if codes is None or codes.const_value is None:
        return
    place = _place(codes.const_value)
    if place in count.seen:
        return
    count.seen.add(place)
    if node.op_type == "MatMulNBits":
        count.parameters += _attribute(node, "K") * _attribute(node, "N")
    else:
        count.parameters += codes.const_value.nbytes * 8 // bits
    for value in (*node.inputs[:2], *node.inputs[3:]):
        if value is not None and value.const_value is not None:
            count.size_bytes += value.const_value.nbytes
    scales = stored_scales(node.inputs[2])
    count.size_bytes += 0 if scales is None else scales.nbytes


def stored_scales(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return a quantised node's scales as they are stored: float32, or float16 before a Cast."""
    widen = None if value is None else value.producer()
    if widen is not None and widen.op_type == "Cast" and widen.inputs[0] is not None:
        return widen.inputs[0].const_value
    return None if value is None else value.const_value


def _place(tensor: ir.TensorProtocol) -> tuple[str, int] | int:
    if isinstance(tensor, ir.ExternalTensor):
        return (str(tensor.location), tensor.offset or 0)
    return id(tensor)


def _attribute(node: ir.Node, name: str) -> int:
    return int(node.attributes[name].as_int())


def _part(where: str, name: str, adapters: tuple[str, ...], *, is_float: bool = False) -> str:
    if where != "decoder":
        return f"{where} encoder"
    for adapter in sorted(adapters, key=len, reverse=True):  # "a" is also the beginning of "ab"
        if f".lora_A.{adapter}" in name or f".lora_B.{adapter}" in name:
            return f"adapter {adapter}"
    if name.startswith(("embed_tokens", "lm_head")):
        return "embedding and head"
    if is_float and "_proj" not in name:
        return "norms and tables"
    return "decoder linears"
