"""Lazy tensor: a weight that is read when needed, a block of rows at a time, with simple operations on it.

Independent of file formats, architectures and quantisers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import CheckpointError
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.stacking import picked_rows, stacked_rows

BLOCK_BYTES = 64 << 20  # bytes of float32 in memory at a time

Rows = Callable[[int, int], NDArray[np.float32]]
CodedRows = Callable[[int, int, Scheme], QuantizedTensor | None]


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor of known shape whose leading rows can be read in parts.

    Attributes:
        name: name in the checkpoint, for errors and the manifest.
        shape: shape of the whole tensor.
        rows: ``rows(start, stop)`` returns [stop - start, ...] float32.
        coded: ``coded(start, stop, scheme)`` returns the same rows as codes of a scheme if the checkpoint has them on
            that grid, else None; None for floats.
    """

    name: str
    shape: tuple[int, ...]
    rows: Rows
    coded: CodedRows | None = None

    def array(self) -> NDArray[np.float32]:
        """Return the whole tensor as float32."""
        return self.rows(0, self.shape[0])

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[NDArray[np.float32]]:
        """Yield the tensor in consecutive blocks of rows of at most ``block_bytes`` each (at least one row)."""
        for start, stop in self.ranges(block_bytes):
            yield self.rows(start, stop)

    def ranges(self, block_bytes: int = BLOCK_BYTES) -> list[tuple[int, int]]:
        """Return first and last row (exclusive) of each of those blocks."""
        row_bytes = 4 * max(1, int(np.prod(self.shape[1:])))
        step = max(1, block_bytes // row_bytes)
        return [(start, min(start + step, self.shape[0])) for start in range(0, self.shape[0], step)]

    def scaled(self, factor: float) -> LazyTensor:
        """The weight times a number."""
        return LazyTensor(self.name, self.shape, lambda a, b: self.rows(a, b) * np.float32(factor))

    def permuted_rows(self, order: NDArray[np.int64]) -> LazyTensor:
        """Rows picked by index; a negative index gives a row of zeros."""

        def read(start: int, stop: int) -> NDArray[np.float32]:
            wanted = order[start:stop]
            out = np.zeros((stop - start, *self.shape[1:]), np.float32)
            there = wanted >= 0
            if there.any():
                first, last = int(wanted[there].min()), int(wanted[there].max()) + 1
                out[there] = self.rows(first, last)[wanted[there] - first]
            return out

        def read_coded(start: int, stop: int, scheme: Scheme) -> QuantizedTensor | None:
            wanted = order[start:stop]
            if self.coded is None or wanted.min() < 0:
                return None
            first, last = int(wanted.min()), int(wanted.max()) + 1
            found = self.coded(first, last, scheme)
            return None if found is None else picked_rows(found, wanted - first)

        return LazyTensor(self.name, (len(order), *self.shape[1:]), read, None if self.coded is None else read_coded)

    def permuted_columns(self, order: NDArray[np.int64]) -> LazyTensor:
        """Columns picked by index; a negative index gives a column of zeros."""

        def read(start: int, stop: int) -> NDArray[np.float32]:
            block = self.rows(start, stop)
            return np.where(order >= 0, block[:, np.maximum(order, 0)], np.float32(0))

        return LazyTensor(self.name, (self.shape[0], len(order)), read)

    def plus_product(self, b: LazyTensor, a: LazyTensor, factor: float) -> LazyTensor:
        """``self + factor * (b @ a)``: a LoRA delta folded in.

        Raises:
            CheckpointError: the shapes do not fit.
        """
        if (b.shape[0], a.shape[1]) != self.shape or b.shape[1] != a.shape[0]:
            raise CheckpointError(
                f"{a.name}: adapter is {list(b.shape)} x {list(a.shape)}, expected a product of {list(self.shape)}"
            )

        def read(start: int, stop: int) -> NDArray[np.float32]:
            return self.rows(start, stop) + np.float32(factor) * (b.rows(start, stop) @ a.array())

        return LazyTensor(self.name, self.shape, read)


def from_array(name: str, array: NDArray[np.float32]) -> LazyTensor:
    """A weight that is in memory already."""
    return LazyTensor(name, array.shape, lambda a, b: array[a:b])


def stacked(name: str, weights: Sequence[LazyTensor]) -> LazyTensor:
    """Several weights of equal row shape, one below the other.

    Raises:
        CheckpointError: their rows differ in shape.
    """
    tails = {w.shape[1:] for w in weights}
    if len(tails) != 1:
        raise CheckpointError(f"{name}: rows of {sorted(map(list, tails))} cannot be stacked")
    starts = np.cumsum([0, *(w.shape[0] for w in weights)])

    def within(start: int, stop: int) -> list[tuple[LazyTensor, int, int]]:
        return [
            (w, max(start - s, 0), min(stop - s, w.shape[0]))
            for w, s in zip(weights, starts[:-1].tolist(), strict=True)
            if s < stop and s + w.shape[0] > start
        ]

    def read(start: int, stop: int) -> NDArray[np.float32]:
        parts = [w.rows(first, last) for w, first, last in within(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_coded(start: int, stop: int, scheme: Scheme) -> QuantizedTensor | None:
        parts = [None if w.coded is None else w.coded(first, last, scheme) for w, first, last in within(start, stop)]
        found = [part for part in parts if part is not None]
        return stacked_rows(found) if len(found) == len(parts) else None

    are_coded = all(w.coded is not None for w in weights)
    return LazyTensor(name, (int(starts[-1]), *tails.pop()), read, read_coded if are_coded else None)


def interleaved(one: LazyTensor, other: LazyTensor) -> LazyTensor:
    """Rows of two weights of equal shape in turns: row 0 of ``one``, row 0 of ``other``, row 1 of ``one``, ..."""

    def within(start: int, stop: int) -> tuple[int, int, slice]:
        first = start // 2
        return first, -(-stop // 2), slice(start - 2 * first, stop - 2 * first)

    def read(start: int, stop: int) -> NDArray[np.float32]:
        first, last, wanted = within(start, stop)
        both = np.stack([one.rows(first, last), other.rows(first, last)], axis=1)
        return np.asarray(both.reshape(2 * (last - first), *one.shape[1:])[wanted])

    def read_coded(start: int, stop: int, scheme: Scheme) -> QuantizedTensor | None:
        first, last, wanted = within(start, stop)
        parts = [None if w.coded is None else w.coded(first, last, scheme) for w in (one, other)]
        found = [part for part in parts if part is not None]
        if len(found) != 2:
            return None
        order = np.arange(2 * (last - first)).reshape(2, -1).T.reshape(-1)
        return picked_rows(stacked_rows(found), order[wanted])

    are_coded = one.coded is not None and other.coded is not None
    return LazyTensor(one.name, (2 * one.shape[0], *one.shape[1:]), read, read_coded if are_coded else None)


class StateDict:
    """Weights by name and expected shape, with a prefix that a layer need not know."""

    def __init__(self, find: Callable[[str], LazyTensor], prefix: str = "") -> None:
        self.find = find
        self._prefix = prefix

    def get(self, name: str, *shape: int) -> LazyTensor:
        """The weight ``prefix + name``.

        Raises:
            CheckpointError: the tensor is missing, or has another shape.
        """
        weight = self.find(self._prefix + name)
        if weight.shape != shape:
            raise CheckpointError(f"tensor '{weight.name}' is {list(weight.shape)}, expected {list(shape)}")
        return weight

    def within(self, prefix: str) -> StateDict:
        """Return the same tensors below a longer prefix."""
        return StateDict(self.find, self._prefix + prefix)
