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

from palmtop.export.bundle.stored_matrix import StoredMatrix, stored_matrices
from palmtop.export.graph.building.mark import TABLE
from palmtop.export.measure.divergence import ratio_db
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.workers import Workers

Sums = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored matrix or tensor of a graph.

    Attributes:
        tensor: the float tensor, or the codes.
        shape: shape of the float tensor, or [N, K] of the codes (``StoredMatrix.shape``).
        matrix: the matrix; None for a tensor that no linear layer or table reads.
    """

    tensor: ir.TensorProtocol
    shape: tuple[int, ...]
    matrix: StoredMatrix | None = None

    @property
    def is_table(self) -> bool:
        """Whether rows of the matrix are looked up."""
        return self.matrix is not None and self.matrix.mark.role == TABLE

    @property
    def bits(self) -> int:
        """Bits of a code: 2, 4 or 8; 32 for float."""
        return 32 if self.matrix is None else self.matrix.bits

    @property
    def scheme(self) -> Scheme | None:
        """Quantisation scheme; None for float."""
        return None if self.matrix is None else self.matrix.scheme

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return leading rows as float32."""
        if self.scheme is None:
            return np.asarray(_rows(self.tensor, self.tensor.shape.numpy()[0], start, stop), np.float32)
        return dequantize(self.quantized(start, stop))

    def quantized(self, start: int, stop: int) -> QuantizedTensor:
        """Return leading rows of a quantised matrix as codes."""
        count, scheme, tensors = self.shape[0], self.scheme, self.matrix.tensors if self.matrix else {}
        assert scheme is not None  # checked by callers
        zeros = tensors.get("zero_points")
        return QuantizedTensor(
            scheme=scheme,
            columns=self.shape[1],
            codes=_rows(self.tensor, count, start, stop).reshape(stop - start, -1, scheme.group * scheme.bits // 8),
            scales=np.asarray(_rows(tensors["scales"], count, start, stop), np.float32),
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
        is_turned = stored.scheme is not None and not stored.is_table
        own = stored.shape[::-1] if is_turned else stored.shape
        if (own[:1] + shape[1:] if stored.is_table else own) != shape:
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
    """Return all stored weights, by initialiser for float and by matrix for quantised ones."""
    found: dict[str, Stored] = {}
    for graph in (model.graph, *model.graph.subgraphs()):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                found[name] = Stored(value.const_value, tuple(value.const_value.shape.numpy()))
    for matrix in stored_matrices(model):
        if matrix.is_quantized and {"codes", "scales"} <= matrix.tensors.keys():
            found.setdefault(matrix.mark.name, Stored(matrix.tensors["codes"], matrix.shape, matrix))
    return found
