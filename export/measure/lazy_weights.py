"""Weights of a graph that was built without reading them: each is made from the checkpoint when needed.

``LazySink`` replaces the external data file (``export.graph.builder.WeightSink``). A graph built on it is complete, and
its weights are instructions: the checkpoint's tensors are read, padded, transposed or quantised again each time a layer
needs them, so at most one layer's are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.graph.building.builder import Blocks
from palmtop.quantize.workers import Workers

LOCATION = "palmtop-lazy"
"""File name of such a weight in the graph; the offset is the number of the weight."""


@dataclass(frozen=True, slots=True, eq=False)
class LazySet:
    """Tensors that are made together, such as codes, scales and zero points of one matrix.

    Attributes:
        name: name of the set.
        tensors: name, shape and type of each tensor.
        blocks: consecutive parts of all of them; iterated anew each time.
    """

    name: str
    tensors: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]
    blocks: Iterable[tuple[NDArray[Any], ...]]

    def arrays(self) -> list[NDArray[Any]]:
        """Make all tensors of the set."""
        arrays = [np.empty((int(np.prod(shape, dtype=np.int64)),), dtype) for _, shape, dtype in self.tensors]
        filled = [0] * len(arrays)
        for parts in self.blocks:
            for place, (array, part) in enumerate(zip(arrays, parts, strict=True)):
                flat = np.asarray(part).reshape(-1)
                if filled[place] == 0 and flat.size == array.size and flat.dtype == array.dtype:
                    arrays[place] = flat  # all rows at once: not copied
                else:
                    array[filled[place] : filled[place] + flat.size] = flat
                filled[place] += flat.size
        return [array.reshape(shape) for array, (_, shape, _) in zip(arrays, self.tensors, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class LazyTensor:
    """One tensor of a set.

    Attributes:
        made_by: set of the tensor.
        place: index in the set.
        matrix: for a float matrix ``rows(start, stop)`` in the checkpoint's order, [stop - start, K]; otherwise None.
    """

    made_by: LazySet
    place: int
    matrix: Callable[[int, int], NDArray[np.float32]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as declared in the graph."""
        return self.made_by.tensors[self.place][1]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor in memory."""
        _, shape, dtype = self.made_by.tensors[self.place]
        return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


class LazySink:
    """Weight sink that stores how tensors are made.

    Attributes:
        tensors: tensors by number, which the graph has as their offset.
        workers: threads that make them.
    """

    def __init__(self, workers: Workers | None = None) -> None:
        self.tensors: list[LazyTensor] = []
        self.workers = workers or Workers()

    def add(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
    ) -> ir.ExternalTensor:
        """Store one tensor; ``blocks`` must be iterable more than once."""
        wrapped = Blocks(lambda: ((block,) for block in blocks))
        made_by = LazySet(name, ((name, tuple(shape), np.dtype(dtype)),), wrapped)
        matrix = blocks.matrix if isinstance(blocks, Blocks) else None
        return self._keep(LazyTensor(made_by, 0, matrix))

    def add_set(
        self,
        name: str,
        tensors: Sequence[tuple[str, tuple[int, ...], np.dtype[Any]]],
        blocks: Iterable[tuple[NDArray[Any], ...]],
    ) -> list[ir.ExternalTensor]:
        """Store tensors that are made together."""
        made_by = LazySet(name, tuple((n, tuple(s), np.dtype(d)) for n, s, d in tensors), blocks)
        return [self._keep(LazyTensor(made_by, place)) for place in range(len(tensors))]

    def inlined(self, name: str, array: NDArray[Any]) -> None:
        """Do nothing: a small weight is in the graph itself."""

    def _keep(self, tensor: LazyTensor) -> ir.ExternalTensor:
        name, shape, dtype = tensor.made_by.tensors[tensor.place]
        self.tensors.append(tensor)
        return ir.ExternalTensor(
            LOCATION,
            len(self.tensors) - 1,
            tensor.size_bytes,
            ir.DataType.from_numpy(dtype),
            shape=ir.Shape(shape),
            name=name,
        )


def number_of(weight: Any) -> int | None:
    """Return the number of a weight that is made when needed; None for other weights."""
    place = {entry.key: entry.value for entry in weight.external_data}
    return int(place["offset"]) if place.get("location") == LOCATION else None
