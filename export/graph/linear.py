"""Linear layer or embedding, float or quantised: the only place where graphs use ``quantize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import CheckpointError, QuantizeError
from palmtop.export.checkpoint.lazy_tensor import LazyTensor
from palmtop.export.graph.building.builder import INLINE_BYTES, MICROSOFT, Blocks, GraphBuilder
from palmtop.export.graph.building.mark import ADAPTER, HEAD, TABLE, Mark
from palmtop.quantize import Quantizer
from palmtop.quantize.rtn import rtn
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.statistics import Statistics

StoredRows = Callable[[int, int], QuantizedTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Storage of the linear layers of one part of a model.

    Attributes:
        scheme: quantisation scheme; None keeps float32.
        accuracy_level: accuracy level of MatMulNBits; 0 computes in float32, 4 quantises activations to int8 (faster).
        quantizer: quantisation method for rows of float32.
        statistics: returns the statistics of the layer's inputs; None where there are none.
        stored: returns rows [start, stop) that are already quantised, instead of the quantiser; called from any thread.
    """

    scheme: Scheme | None
    accuracy_level: int = 0
    quantizer: Quantizer = rtn
    statistics: Callable[[], Statistics | None] | None = None
    stored: StoredRows | None = None

    def of(self, name: str) -> Precision:
        """Return the precision of a layer: this one for every layer."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPrecision:
    """Precision of every layer by its name, with a default."""

    by_name: Mapping[str, Precision]
    default: Precision

    def of(self, name: str) -> Precision:
        """Return the precision of a layer by its name."""
        return self.by_name.get(name, self.default)


Precisions = Precision | PlannedPrecision

FLOAT = Precision(scheme=None)


@dataclass(frozen=True, slots=True)
class GraphPrecision:
    """Precision of each class of a graph's matrices."""

    linears: Precisions
    head: Precisions
    adapters: Precisions

    def of(self, role: str) -> Precisions:
        """Return the precision of matrices of a role (``mark.Mark``)."""
        return {HEAD: self.head, TABLE: self.head, ADAPTER: self.adapters}.get(role, self.linears)


FLOAT_GRAPH = GraphPrecision(FLOAT, FLOAT, FLOAT)

StaticLinear = Callable[[GraphBuilder, str, ir.Value, LazyTensor, str], ir.Value]
"""Function that adds ``x @ weight.T``, [..., K] -> [..., N], under the linear's name and marked with its role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedValues:
    """Initialisers of one quantised [N, K] matrix, for MatMulNBits or GatherBlockQuantized."""

    codes: ir.Value  # [N, K/G, G*bits/8]
    scales: ir.Value  # [N, K/G]
    zero_points: ir.Value | None
    rows: int
    columns: int
    scheme: Scheme


def finite(weight: LazyTensor, block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the block unchanged after checking it.

    Raises:
        CheckpointError: the block has a NaN or an infinity; the message names the tensor.
    """
    if not np.isfinite(block).all():
        raise CheckpointError(f"tensor '{weight.name}' holds a value that is not finite, expected numbers only")
    return block


def float_array(weight: LazyTensor) -> NDArray[np.float32]:
    """Return the whole weight, checked to be finite."""
    return finite(weight, weight.array())


def quantized_rows(weight: LazyTensor, precision: Precision) -> Callable[[tuple[int, int]], tuple[NDArray[Any], ...]]:
    """Return a function for rows (start, stop) of a quantised matrix: codes, scales and, unless symmetric, zero points.

    Raises:
        QuantizeError: the precision has no scheme.
    """
    scheme = precision.scheme
    if scheme is None:
        raise QuantizeError(f"{weight.name}: no scheme given")
    scale_type = np.dtype(np.float16 if scheme.scale_bits == 16 else np.float32)
    statistics = None if precision.statistics is None or precision.stored is not None else precision.statistics()

    def one(rows: tuple[int, int]) -> tuple[NDArray[np.generic], ...]:
        part = None
        if precision.stored is not None:
            part = precision.stored(*rows)
        elif weight.coded is not None:  # the checkpoint's own grid loses nothing
            part = weight.coded(*rows, scheme)
        if part is None:
            part = precision.quantizer(finite(weight, weight.rows(*rows)), scheme, statistics)
        scales = part.scales.astype(scale_type)
        return (part.codes, scales) if part.zero_points is None else (part.codes, scales, part.zero_points)

    return one


def quantized(g: GraphBuilder, name: str, weight: LazyTensor, precision: Precision) -> QuantizedValues:
    """Quantise a matrix block by block, on all cores, directly into the external data file."""
    scheme = precision.scheme
    if scheme is None:
        raise QuantizeError(f"{name}: no scheme given")
    rows, columns = weight.shape
    groups = scheme.groups_per_row(columns)
    scale_type = np.dtype(np.float16 if scheme.scale_bits == 16 else np.float32)
    one = quantized_rows(weight, precision)
    codes = (rows, groups, scheme.group * scheme.bits // 8)
    zeros = (rows, -(-groups * scheme.bits // 8))
    tensors: list[tuple[str, tuple[int, ...], np.dtype[np.generic]]] = [
        (f"{name}.codes", codes, np.dtype(np.uint8)),
        (f"{name}.scales", (rows, groups), scale_type),
        *([] if scheme.symmetric else [(f"{name}.zero_points", zeros, np.dtype(np.uint8))]),
    ]
    workers = g.sink.workers
    values = g.weight_set(name, tensors, Blocks(lambda: workers.map(one, weight.ranges(workers.block_bytes))))
    return QuantizedValues(
        codes=values[0],
        scales=widened(g, f"{name}.scales", values[1]),
        zero_points=None if scheme.symmetric else values[2],
        rows=rows,
        columns=columns,
        scheme=scheme,
    )


def widened(g: GraphBuilder, name: str, scales: ir.Value) -> ir.Value:
    """Return scales as float32, as the kernels need them, where they are stored as float16.

    onnxruntime (1.29 and 1.31) folds the Cast when it loads the graph, before it prepacks, so the kernel gets a
    constant. float16 scales themselves would need float16 activations.
    """
    if scales.dtype != ir.DataType.FLOAT16:
        return scales
    return g.op("Cast", scales, to=int(ir.DataType.FLOAT), name=f"{name}/widen")


def matmul_nbits(g: GraphBuilder, x: ir.Value, w: QuantizedValues, accuracy_level: int, name: str) -> ir.Value:
    """Add the weight-only quantised kernel: [..., K] -> [..., N]."""
    return g.op(
        "MatMulNBits",
        x,
        w.codes,
        w.scales,
        w.zero_points,
        domain=MICROSOFT,
        name=name,
        K=w.columns,
        N=w.rows,
        bits=w.scheme.bits,
        block_size=w.scheme.group,
        accuracy_level=accuracy_level,
    )


def linear(
    g: GraphBuilder,
    name: str,
    x: ir.Value,
    weight: LazyTensor,
    precision: Precisions,
    role: str,
    bias: LazyTensor | None = None,
) -> ir.Value:
    """Add a linear layer, ``x @ weight.T + bias``.

    Args:
        g: the graph.
        name: name of the node and, with suffixes, of its initialisers.
        x: [..., K] input.
        weight: [N, K] weight in the checkpoint's layout.
        precision: float32 or a scheme, of this layer or of all by name.
        role: role of ``mark.Mark``.
        bias: [N] bias, or None.

    Returns:
        The output, [..., N].
    """
    own = precision.of(name)
    if own.scheme is None:
        y = g.op("MatMul", x, _transposed(g, f"{name}.weight", weight), name=name)
    else:
        y = matmul_nbits(g, x, quantized(g, name, weight, own), own.accuracy_level, name)
    rows, columns = weight.shape
    Mark(role, rows, columns, name).put(y)
    return with_bias(g, name, y, bias)


def with_bias(g: GraphBuilder, name: str, y: ir.Value, bias: LazyTensor | None) -> ir.Value:
    """Add ``y + bias``, the bias named after its linear."""
    return y if bias is None else g.op("Add", y, g.weight(f"{name}.bias", float_array(bias)))


def _transposed(g: GraphBuilder, name: str, weight: LazyTensor) -> ir.Value:
    """Weight [N, K] as the [K, N] initialiser of MatMul; a large one is read when its sink requests it."""

    def whole() -> NDArray[np.float32]:
        return np.ascontiguousarray(float_array(weight).T)

    rows, columns = weight.shape
    if 4 * rows * columns <= INLINE_BYTES:
        return g.weight(name, whole())
    blocks = Blocks(lambda: iter([whole()]), lambda start, stop: finite(weight, weight.rows(start, stop)))
    return g.streamed_weight(name, (columns, rows), np.dtype(np.float32), blocks)


def gather_quantized(g: GraphBuilder, name: str, w: QuantizedValues, ids: ir.Value, mark: Mark) -> ir.Value:
    """Look up rows of a quantised matrix, dequantised: [B, S] ids -> [B, S, K].

    The codes get a second, two-dimensional initialiser on the same bytes: a Reshape in the graph would be
    constant-folded into a copy of the whole table.
    """
    packed = w.scheme.groups_per_row(w.columns) * w.scheme.group * w.scheme.bits // 8
    codes = g.alias(f"{name}.codes", w.codes, (w.rows, packed))
    rows = g.op(
        "GatherBlockQuantized",
        codes,
        ids,
        w.scales,
        w.zero_points,
        domain=MICROSOFT,
        name=name,
        bits=w.scheme.bits,
        block_size=w.scheme.group,
        gather_axis=0,
        quantize_axis=1,
    )
    mark.put(rows)
    if packed * 8 // w.scheme.bits == w.columns:
        return rows
    return g.op("Slice", rows, g.constant([0]), g.constant([w.columns]), g.constant([2]))
