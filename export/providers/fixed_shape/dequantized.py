"""Quantised matrices by ``DequantizeLinear`` in blocks, on the bytes that MatMulNBits uses in the gated graph.

OpenVINO keeps the codes compressed in this form (measured with plugin 1.8.1 on its CPU device: as much memory and time
as MatMulNBits, a quarter of the memory of float32), and it needs no operator outside ONNX. MatMulNBits packs rows, ONNX
whole tensors: the bytes are equal where a row has whole groups, and for zero points an even number of them. Otherwise
the input is padded with zeros, and zero points are stored a second time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import QuantizeError
from palmtop.export.checkpoint.lazy_tensor import LazyTensor
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.mark import Mark
from palmtop.export.graph.linear import GraphPrecision, QuantizedValues, StaticLinear, quantized, widened
from palmtop.quantize.scheme import Scheme

from .graphs import stored_linear

BLOCKWISE_OPSET = 21  # the first opset with blocks and 4-bit types
BLOCK_BYTES = 4 << 20
TYPES = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}


def dequantized_linear(precision: GraphPrecision) -> StaticLinear:
    """Return a function that dequantises matrices before a MatMul; matrices without a scheme are float32."""
    plain = stored_linear(precision)

    def build(g: GraphBuilder, name: str, x: ir.Value, weight: LazyTensor, role: str) -> ir.Value:
        own = precision.of(role).of(name)
        if own.scheme is None:
            return plain(g, name, x, weight, role)
        aside = GraphBuilder("aside", g.sink)  # writes, or finds, the codes; their uint8 initialisers are not needed
        rows, columns = weight.shape
        y = multiplied(g, name, x, quantized(aside, name, weight, own))
        return Mark(role, rows, columns, name).put(y)

    return build


def multiplied(g: GraphBuilder, name: str, x: ir.Value, w: QuantizedValues) -> ir.Value:
    """Multiply with the dequantised matrix, [1, S, K] -> [1, S, N].

    Raises:
        QuantizeError: ONNX has no type of this width.
    """
    scheme = w.scheme
    if scheme.bits not in TYPES:
        raise QuantizeError(f"{name}: has {scheme.bits} bits, a target's graphs take {' or '.join(map(str, TYPES))}")
    groups = scheme.groups_per_row(w.columns)
    columns = groups * scheme.group
    codes = g.place(f"{name}.blocks", seen_as(w.codes, f"{name}.blocks", scheme.bits, (w.rows, columns)))
    zeros = g.place(f"{name}.zeros", zero_points(g, name, w, groups))
    scales = _placed_scales(g, name, w, groups)
    matrix = g.op("DequantizeLinear", codes, scales, zeros, axis=1, block_size=scheme.group, name=f"{name}/dequantize")
    turned = g.op("Transpose", matrix, perm=[1, 0])
    if columns != w.columns:
        x = _filled_up(g, x, columns - w.columns)
    return g.op("MatMul", x, turned, name=name)


def seen_as(value: ir.Value, name: str, bits: int, shape: tuple[int, ...]) -> ir.ExternalTensor:
    """Return an initialiser of unsigned numbers of ``bits`` bits on the same bytes."""
    there = value.const_value
    assert isinstance(there, ir.ExternalTensor)  # weight sets are always in the external data file
    return ir.ExternalTensor(
        there.location,
        there.offset,
        there.length,
        TYPES[bits],
        shape=ir.Shape(shape),
        name=name,
        base_dir=there.base_dir,
    )


def zero_points(g: GraphBuilder, name: str, w: QuantizedValues, groups: int) -> ir.ExternalTensor:
    """Return zero points [N, K/G]: the stored ones, repacked where rows do not end on a byte, or the middle code."""
    scheme, shape = w.scheme, (w.rows, groups)
    if w.zero_points is not None and (scheme.bits == 8 or groups % 2 == 0):
        return seen_as(w.zero_points, f"{name}.zeros", scheme.bits, shape)
    size = -(-w.rows * groups * scheme.bits // 8)
    found = _middle(scheme, size) if w.zero_points is None else _without_gaps(w.zero_points, w.rows, groups)
    packed = g.sink.add(f"{name}.zeros", (size,), np.dtype(np.uint8), found)
    value = ir.Value(name=name, const_value=packed)
    return seen_as(value, f"{name}.zeros", scheme.bits, shape)


def _middle(scheme: Scheme, size: int) -> Iterator[NDArray[np.uint8]]:
    """Zero point that MatMulNBits implies without stored ones."""
    for start in range(0, size, BLOCK_BYTES):
        yield np.full(min(BLOCK_BYTES, size - start), 0x88 if scheme.bits == 4 else 0x80, np.uint8)


def _without_gaps(zeros: ir.Value, rows: int, groups: int) -> Iterator[NDArray[np.uint8]]:
    """Pack 4-bit numbers without padding, from rows of an odd count that end on a byte."""
    assert zeros.const_value is not None
    packed = np.asarray(zeros.const_value.numpy()).reshape(rows, -1)  # [N, ceil(K/G / 2)], first in the low nibble
    step = max(2, BLOCK_BYTES // packed.shape[1] // 2 * 2)  # two rows end on a byte
    for start in range(0, rows, step):
        part = packed[start : start + step]
        apart = np.stack([part & 0xF, part >> 4], axis=-1).reshape(len(part), -1)[:, :groups].reshape(-1)
        apart = np.append(apart, np.zeros(len(apart) % 2, np.uint8))
        yield apart[::2] | apart[1::2] << 4


def _placed_scales(g: GraphBuilder, name: str, w: QuantizedValues, groups: int) -> ir.Value:
    """[N, K/G] float32."""
    node = w.scales.producer()
    stored = w.scales if node is None else node.inputs[0]
    assert stored is not None and stored.const_value is not None
    return widened(g, f"{name}.scales", g.place(f"{name}.scales", stored.const_value))


def _filled_up(g: GraphBuilder, x: ir.Value, more: int) -> ir.Value:
    """Pad with zeros, [1, S, K] -> [1, S, K + more], so that codes of the padding have no effect."""
    return g.op("Pad", x, g.constant([0, 0, 0, 0, 0, more]), g.constant(0.0))
