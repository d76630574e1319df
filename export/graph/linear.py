"""One linear layer or embedding, float or quantised: the only place where graphs meet ``quantize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import CheckpointError, QuantizeError
from palmtop.export.checkpoint.lazy_tensor import Weight
from palmtop.quantize import Quantizer
from palmtop.quantize.rtn import rtn
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.statistics import Statistics

from .builder import INLINE_BYTES, MICROSOFT, Blocks, GraphBuilder
from .mark import ADAPTER, HEAD, TABLE, Mark

StoredRows = Callable[[int, int], QuantizedTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How the linear layers of one part of a model are stored.

    Attributes:
        scheme: None keeps float32.
        accuracy_level: of MatMulNBits; 0 computes in float32, 4 quantises activations to int8 (faster).
        quantizer: turns rows of float32 into codes.
        statistics: gives those of the layer's inputs when they are wanted; None where there are none.
        stored: gives rows [start, stop) that are quantised already, in place of the quantiser; called from any thread.
    """

    scheme: Scheme | None
    accuracy_level: int = 0
    quantizer: Quantizer = rtn
    statistics: Callable[[], Statistics | None] | None = None
    stored: StoredRows | None = None

    def of(self, name: str) -> Precision:
        """The same for every layer."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPrecision:
    """A precision for every layer by its name, and one for those that have none of their own."""

    by_name: Mapping[str, Precision]
    default: Precision

    def of(self, name: str) -> Precision:
        """The layer's own."""
        return self.by_name.get(name, self.default)


Precisions = Precision | PlannedPrecision

FLOAT = Precision(scheme=None)


@dataclass(frozen=True, slots=True)
class GraphPrecision:
    """How each class of a graph's matrices is stored."""

    linears: Precisions
    head: Precisions
    adapters: Precisions

    def of(self, role: str) -> Precisions:
        """That of matrices of a role (``mark.Mark``)."""
        return {HEAD: self.head, TABLE: self.head, ADAPTER: self.adapters}.get(role, self.linears)


FLOAT_GRAPH = GraphPrecision(FLOAT, FLOAT, FLOAT)

StaticLinear = Callable[[GraphBuilder, str, ir.Value, Weight, str], ir.Value]
"""Builds ``x @ weight.T``: [..., K] -> [..., N], under the linear's name and marked with its role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedValues:
    """The initialisers of one quantised [N, K] matrix, to be read by MatMulNBits or GatherBlockQuantized."""

    codes: ir.Value  # [N, K/G, G*bits/8]
    scales: ir.Value  # [N, K/G]
    zero_points: ir.Value | None
    rows: int
    columns: int
    scheme: Scheme


def finite(weight: Weight, block: NDArray[np.float32]) -> NDArray[np.float32]:
    """The block itself.

    Raises:
        CheckpointError: it holds a NaN or an infinity; the message names the tensor.
    """
    if not np.isfinite(block).all():
        raise CheckpointError(f"tensor '{weight.name}' holds a value that is not finite, expected numbers only")
    return block


def float_array(weight: Weight) -> NDArray[np.float32]:
    """The whole weight, checked to be finite."""
    return finite(weight, weight.array())


def quantized(g: GraphBuilder, name: str, weight: Weight, precision: Precision) -> QuantizedValues:
    """Quantise a matrix block by block, on all cores, straight into the external data file."""
    scheme = precision.scheme
    if scheme is None:
        raise QuantizeError(f"{name}: no scheme given")
    rows, columns = weight.shape
    groups = scheme.groups_per_row(columns)
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
    """Scales as the kernels want them, float32, where half as many bytes are stored.

    onnxruntime (1.29 and 1.31) folds the Cast when it loads the graph, before it prepacks: the kernel meets
    a constant. float16 scales themselves would need float16 activations.
    """
    if scales.dtype != ir.DataType.FLOAT16:
        return scales
    return g.op("Cast", scales, to=int(ir.DataType.FLOAT), name=f"{name}/widen")


def matmul_nbits(g: GraphBuilder, x: ir.Value, w: QuantizedValues, accuracy_level: int, name: str) -> ir.Value:
    """[..., K] -> [..., N] by the weight-only quantised kernel."""
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
    weight: Weight,
    precision: Precisions,
    role: str,
    bias: Weight | None = None,
) -> ir.Value:
    """``x @ weight.T + bias``.

    Args:
        g: the graph.
        name: of the node and, with suffixes, of its initialisers.
        x: [..., K].
        weight: [N, K] as checkpoints hold it.
        precision: float32 or a scheme, of this layer or of all by name.
        role: as ``mark.Mark`` has it.
        bias: [N].

    Returns:
        [..., N].
    """
    own = precision.of(name)
    if own.scheme is None:
        y = g.op("MatMul", x, _transposed(g, f"{name}.weight", weight), name=name)
    else:
        y = matmul_nbits(g, x, quantized(g, name, weight, own), own.accuracy_level, name)
    rows, columns = weight.shape
    Mark(role, rows, columns, name).put(y)
    return with_bias(g, name, y, bias)


def with_bias(g: GraphBuilder, name: str, y: ir.Value, bias: Weight | None) -> ir.Value:
    """``y + bias``, the bias named after its linear."""
    return y if bias is None else g.op("Add", y, g.weight(f"{name}.bias", float_array(bias)))


def _transposed(g: GraphBuilder, name: str, weight: Weight) -> ir.Value:
    """An [N, K] weight as the [K, N] initialiser that MatMul reads; a big one is read when its sink asks for it."""

    def whole() -> NDArray[np.float32]:
        return np.ascontiguousarray(float_array(weight).T)

    rows, columns = weight.shape
    if 4 * rows * columns <= INLINE_BYTES:
        return g.weight(name, whole())
    blocks = Blocks(lambda: iter([whole()]), lambda start, stop: finite(weight, weight.rows(start, stop)))
    return g.streamed_weight(name, (columns, rows), np.dtype(np.float32), blocks)


def gather_quantized(g: GraphBuilder, name: str, w: QuantizedValues, ids: ir.Value, mark: Mark) -> ir.Value:
    """Rows of a quantised matrix, dequantised: [B, S] ids -> [B, S, K].

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
