"""Weights shared by several graphs: bytes written for one graph are referenced by the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.graph.building.builder import WeightSink


class SharedWeights:
    """Weight sink that passes every weight on once (``export.graph.builder.WeightSink``).

    Weights are identified by name: two graphs that use a name mean the same tensor.

    Attributes:
        workers: threads of the sink behind.
    """

    def __init__(self, sink: WeightSink) -> None:
        self.workers = sink.workers
        self._sink = sink
        self._there: dict[str, ir.ExternalTensor] = {}

    def add(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], blocks: Iterable[NDArray[np.generic]]
    ) -> ir.ExternalTensor:
        """Return the tensor's place; the blocks are read if it is new."""
        if not self._is_there(name, shape, dtype):
            self._there[name] = self._sink.add(name, shape, dtype, blocks)
        return self._there[name]

    def add_set(
        self,
        name: str,
        tensors: Sequence[tuple[str, tuple[int, ...], np.dtype[np.generic]]],
        blocks: Iterable[tuple[NDArray[np.generic], ...]],
    ) -> list[ir.ExternalTensor]:
        """Return the tensors' places; the blocks are read if the first of them is new."""
        if not all(self._is_there(*tensor) for tensor in tensors):
            places = self._sink.add_set(name, tensors, blocks)
            self._there.update((tensor, place) for (tensor, _, _), place in zip(tensors, places, strict=True))
        return [self._there[tensor] for tensor, _, _ in tensors]

    def inlined(self, name: str, array: NDArray[np.generic]) -> None:
        """Do nothing: a small weight stays in each graph."""
        self._sink.inlined(name, array)

    def _is_there(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bool:
        there = self._there.get(name)
        if there is None:
            return False
        if (tuple(there.shape.numpy()), there.dtype) != (tuple(shape), ir.DataType.from_numpy(np.dtype(dtype))):
            raise ValueError(f"weight {name} is {there.shape} {there.dtype}, another graph wants {shape} {dtype}")
        return True
