"""Rotary cos and sin for given positions, in numpy: inputs of graphs of fixed shapes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.targets import RopeSpec


class RopeTables:
    """Tables of cos and sin by position, for the short or the long factors.

    The order of float32 operations is that of the reference (``export.graph.rope``).
    """

    def __init__(self, spec: RopeSpec) -> None:
        steps = np.arange(0, spec.rotary_size, 2, dtype=np.float32) / np.float32(spec.rotary_size)
        lengths = np.power(np.float32(spec.theta), steps)
        self._inverse = [np.float32(1) / _times(lengths, f) for f in (spec.short_factor, spec.long_factor)]
        self._factor = np.float32(spec.attention_factor)

    def rows(self, start: int, count: int, *, is_long: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cos and sin of ``count`` positions from ``start`` on, each [1, count, R/2]."""
        positions = np.arange(start, start + count, dtype=np.float32)
        angles = positions[None, :, None] * self._inverse[is_long]
        return np.cos(angles) * self._factor, np.sin(angles) * self._factor


def _times(lengths: NDArray[np.float32], factors: tuple[float, ...]) -> NDArray[np.float32]:
    return lengths if not factors else np.array(factors, np.float32) * lengths
