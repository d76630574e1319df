"""Calibration statistics of a linear layer's inputs: their second moments. Independent of graphs and samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)  # compared and hashed by identity
class Statistics:
    """Second moments of the inputs x of ``y = W x``.

    The error of quantised weights W' in the outputs is ``trace((W' - W) M (W' - W)^T)``: the mean over the
    calibration inputs of the squared difference of y.

    Attributes:
        moments: [K, K] float32, the mean of ``x x^T``.
        count: number of inputs.
    """

    moments: NDArray[np.float32]
    count: int

    @property
    def importance(self) -> NDArray[np.float32]:
        """Return the mean square of each input, [K]."""
        return np.ascontiguousarray(np.diagonal(self.moments))

    def output_error(self, difference: NDArray[np.float32]) -> float:
        """Return the mean squared change of the outputs, summed over outputs, for weights changed by [N, K]."""
        return float(np.einsum("nk,nk->", difference @ self.moments, difference, dtype=np.float64))


class Moments:
    """Accumulator of ``x x^T`` over batches of inputs."""

    def __init__(self, size: int) -> None:
        self._sum = np.zeros((size, size), np.float32)
        self.count = 0

    def add(self, inputs: NDArray[np.float32], weight: float = 1.0) -> None:
        """Add [T, K] inputs, each of them ``weight`` times."""
        self._sum += np.float32(weight) * (inputs.T @ inputs)
        self.count += len(inputs)

    def statistics(self, total_weight: float | None = None) -> Statistics:
        """Return the mean over the inputs, or over their total weight."""
        return Statistics(self._sum / np.float32(max(total_weight or self.count, 1e-30)), self.count)
