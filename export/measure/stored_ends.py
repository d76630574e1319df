"""Float tables and heads of a graph on disk, read in parts: whole ones are gigabytes at a vocabulary of 200,000."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from palmtop.export.graph.building.builder import Blocks
from palmtop.export.graph.building.mark import HEAD, TABLE

from .lazy_weights import LOCATION, LazySet, LazyTensor
from .stages import mark_in


def stored_ends(
    nodes: Iterable[Any], weights: Mapping[str, Any], folder: Path, least_bytes: int
) -> dict[str, LazyTensor]:
    """Return tables and heads in float32 of more than ``least_bytes``, by the name of their initialiser.

    Args:
        nodes: nodes of the graph.
        weights: initialisers by name.
        folder: folder of the files that they name.
        least_bytes: bytes up to which a matrix is left to onnxruntime.
    """
    found: dict[str, LazyTensor] = {}
    for node in nodes:
        mark = mark_in(node)
        if mark is None or mark.role not in (HEAD, TABLE):
            continue
        for name in node.input:
            weight = weights.get(name)
            if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
                continue
            place = {entry.key: entry.value for entry in weight.external_data}
            if place and place["location"] != LOCATION and 4 * int(np.prod(weight.dims)) > least_bytes:
                found[name] = _lazy(name, weight.dims, folder / place["location"], int(place.get("offset", 0)), node)
    return found


def _lazy(name: str, dims: Iterable[int], path: Path, offset: int, node: Any) -> LazyTensor:
    rows, columns = (int(size) for size in dims)
    shape = rows, columns

    def whole() -> Iterator[tuple[NDArray[np.float32]]]:
        yield (np.fromfile(path, np.float32, rows * columns, offset=offset).reshape(shape),)

    read = _turned if node.op_type == "MatMul" else _straight
    made_by = LazySet(name, ((name, shape, np.dtype(np.float32)),), Blocks(whole))
    return LazyTensor(made_by, 0, partial(read, path, offset, shape))


def _straight(path: Path, offset: int, shape: tuple[int, int], start: int, stop: int) -> NDArray[np.float32]:
    """Rows of an [N, K] matrix."""
    first = offset + 4 * start * shape[1]
    return np.fromfile(path, np.float32, (stop - start) * shape[1], offset=first).reshape(-1, shape[1])


def _turned(path: Path, offset: int, shape: tuple[int, int], start: int, stop: int) -> NDArray[np.float32]:
    """Rows of the matrix that is stored as [K, N]; the mapping ends with the call."""
    return np.ascontiguousarray(np.memmap(path, np.float32, "r", offset, shape)[:, start:stop].T)
