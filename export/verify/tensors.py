"""Comparison of a bundle's stored tensors with the checkpoint's, one at a time.

The exporter's graph code is run once more in float32 with a sink that writes nothing: each tensor it would store is
compared with the bundle's tensor of that name. So the comparison includes every padding, order and scale without a
second description of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.bundle.storage_summary import stored_scales
from palmtop.export.measure.divergence import ratio_db
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.workers import Workers

EMBEDDING = "embed_tokens"

Sums = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored matrix or tensor of a graph.

    Attributes:
        tensor: the float tensor, or the codes.
        shape: [N, K] of a quantised matrix, K padded for a table; a float linear is [K, N].
        bits: bits of a code: 2, 4 or 8; 32 for float.
        group: number of weights that share a scale; 0 for float.
        scales: scales of a quantised matrix.
        zero_points: zero points of a quantised matrix; None when symmetric.
    """

    tensor: ir.TensorProtocol
    shape: tuple[int, ...]
    bits: int = 32
    group: int = 0
    scales: ir.TensorProtocol | None = None
    zero_points: ir.TensorProtocol | None = None

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return leading rows as float32."""
        if self.scales is None:
            return np.asarray(_rows(self.tensor, self.tensor.shape.numpy()[0], start, stop), np.float32)
        return dequantize(self.quantized(start, stop))

    @property
    def scheme(self) -> Scheme | None:
        """Quantisation scheme; None for float."""
        if self.scales is None:
            return None
        scale_bits = 16 if self.scales.dtype == ir.DataType.FLOAT16 else 32
        return Scheme(bits=self.bits, group=self.group, symmetric=self.zero_points is None, scale_bits=scale_bits)

    def quantized(self, start: int, stop: int) -> QuantizedTensor:
        """Return leading rows of a quantised matrix as codes."""
        count, zeros, scheme = self.shape[0], self.zero_points, self.scheme
        assert scheme is not None and self.scales is not None  # checked by callers
        return QuantizedTensor(
            scheme=scheme,
            columns=self.shape[1],
            codes=_rows(self.tensor, count, start, stop).reshape(stop - start, -1, self.group * self.bits // 8),
            scales=np.asarray(_rows(self.scales, count, start, stop), np.float32),
            zero_points=None if zeros is None else _rows(zeros, count, start, stop),
        )


def _rows(tensor: ir.TensorProtocol, count: int, start: int, stop: int) -> NDArray[Any]:
    """Rows of a tensor of [count, ...]; read from the file, not mapped: mapped pages would stay in memory."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy().reshape(count, -1)[start:stop] if count else tensor.numpy()[start:stop]
    width = tensor.size // count if count else 0
    dtype = tensor.dtype.numpy()
    offset = (tensor.offset or 0) + start * width * dtype.itemsize
    found: NDArray[Any] = np.fromfile(tensor.path, dtype, (stop - start) * width, offset=offset)
    return found.reshape(stop - start, -1)


@dataclass(frozen=True, slots=True)
class Likeness:
    """Agreement of a stored tensor with the checkpoint's.

    Attributes:
        snr_db: SNR in decibels; -200 if it is missing, of another shape, or not finite.
        bits: bits of the stored tensor.
    """

    snr_db: float
    bits: int


MISSING = Likeness(-200.0, 32)


class ComparingSink:
    """Weight sink that compares tensors instead of writing them.

    Attributes:
        found: agreement by linear or tensor name.
    """

    def __init__(self, graph: Path, workers: Workers | None = None) -> None:
        self.found: dict[str, Likeness] = {}
        self.workers = workers or Workers()
        self._stored = stored_tensors(ir.load(graph))

    def add(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
    ) -> ir.ExternalTensor:
        """Compare a tensor with the bundle's block by block; nothing is kept."""
        self.found[name.removesuffix(".weight")] = self._compare(name, shape, blocks)
        return ir.ExternalTensor("", 0, 0, ir.DataType.from_numpy(dtype), shape=ir.Shape(shape), name=name)

    def add_set(self, name: str, tensors: object, blocks: object) -> list[ir.ExternalTensor]:
        """Raise an error: the graph code runs in float32, without quantised tensors."""
        raise NotImplementedError(f"{name}: the comparison is made in float32")

    def inlined(self, name: str, array: NDArray[Any]) -> None:
        """Compare a small tensor."""
        self.found[name.removesuffix(".weight")] = self._compare(name, array.shape, [array])

    def _compare(self, name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]) -> Likeness:
        stored = self._stored.get(name) or self._stored.get(name.removesuffix(".weight"))
        if stored is None:
            return MISSING
        # A linear's float weight is [K, N] and comes in one block; quantised ones are [N, K], tables always.
        is_table = name.removesuffix(".weight") == EMBEDDING
        is_turned = stored.scales is not None and not is_table
        if (stored.shape[::-1] if is_turned else stored.shape[:1] + shape[1:] if is_table else stored.shape) != shape:
            return MISSING
        signal = noise = 0.0
        start = 0
        for block in blocks:
            whole = np.asarray(block, np.float32)
            whole = np.atleast_1d(whole.T if is_turned else whole)
            step = max(1, self.workers.block_bytes // (4 * max(1, whole.size // max(1, len(whole)))))

            def compare(first: int, whole: NDArray[np.float32] = whole, start: int = start, step: int = step) -> Sums:
                expected = whole[first : first + step]
                return _sums(expected, stored.rows(start + first, start + first + len(expected)))

            for one, other in self.workers.map(compare, range(0, len(whole), step)):
                signal, noise = signal + one, noise + other
            start += len(whole)
        return Likeness(ratio_db(signal, noise), stored.bits)


def _sums(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Sums:
    """Sums of squares of the expected values, and of the differences."""
    flat = expected.reshape(len(expected), -1)
    off = found.reshape(len(expected), -1)[:, : flat.shape[1]] - flat  # the last group of a table is padded
    return float(np.einsum("ij,ij->", flat, flat, dtype=np.float64)), float(
        np.einsum("ij,ij->", off, off, dtype=np.float64)
    )


def stored_tensors(model: ir.Model) -> dict[str, Stored]:
    """Return all stored weights, by initialiser for float and by node, or table, for quantised ones."""
    found: dict[str, Stored] = {}
    for graph in (model.graph, *model.graph.subgraphs()):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                found[name] = Stored(value.const_value, tuple(value.const_value.shape.numpy()))
    for node in model.graph.all_nodes():
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        values = [None if v is None else v.const_value for v in node.inputs]
        bits, group = (node.attributes[k].as_int() for k in ("bits", "block_size"))
        if node.op_type == "MatMulNBits":
            codes, shape = values[1], tuple(node.attributes[k].as_int() for k in ("N", "K"))
        else:
            codes = values[0]
            table = (0, 0) if codes is None else codes.shape.numpy()
            shape = (table[0], table[1] * 8 // bits)
        if codes is None:
            continue
        zeros = values[3] if len(values) > 3 else None
        scales = stored_scales(node.inputs[2])
        name = EMBEDDING if node.op_type == "GatherBlockQuantized" else node.name or ""
        found[name] = Stored(codes, shape, bits, group, scales, zeros)
    return found
