"""Quantised tensors on disk until the bundle is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.export.graph.linear import StoredRows
from palmtop.quantize.scheme import QuantizedTensor

from .allocation import file_stem


class QuantizedStore:
    """Folder of quantised tensors by ``part: linear``."""

    def __init__(self, folder: Path) -> None:
        """Use an empty folder that exists."""
        self._folder = folder
        self._kept: dict[str, QuantizedTensor] = {}

    def keep(self, key: str, tensor: QuantizedTensor) -> QuantizedTensor:
        """Write a tensor and return it with its arrays mapped from disk."""
        arrays: dict[str, NDArray[Any] | None] = {
            "codes": tensor.codes,
            "scales": tensor.scales,
            "zero_points": tensor.zero_points,
        }
        mapped: dict[str, NDArray[Any]] = {}
        for name, array in arrays.items():
            if array is not None:
                path = self._folder / f"{file_stem(key)}.{name}.npy"
                np.save(path, array)
                mapped[name] = np.load(path, mmap_mode="r")
        kept = self._kept[key] = QuantizedTensor(
            scheme=tensor.scheme,
            columns=tensor.columns,
            codes=mapped["codes"],
            scales=mapped["scales"],
            zero_points=mapped.get("zero_points"),
        )
        return kept

    def rows(self, key: str) -> StoredRows | None:
        """Return a function for rows [start, stop) of a tensor; None if it was not stored."""
        tensor = self._kept.get(key)
        if tensor is None:
            return None

        def part(start: int, stop: int) -> QuantizedTensor:
            zeros = tensor.zero_points
            return QuantizedTensor(
                scheme=tensor.scheme,
                columns=tensor.columns,
                codes=tensor.codes[start:stop],
                scales=tensor.scales[start:stop],
                zero_points=None if zeros is None else zeros[start:stop],
            )

        return part
