"""Rows of quantised matrices, picked and put one below the other: rows are quantised each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .scheme import QuantizedTensor


def picked_rows(tensor: QuantizedTensor, rows: NDArray[np.int64]) -> QuantizedTensor:
    """The rows of these numbers, in this order."""
    zeros = tensor.zero_points
    return replace(
        tensor,
        codes=tensor.codes[rows],
        scales=tensor.scales[rows],
        zero_points=None if zeros is None else zeros[rows],
    )


def stacked_rows(tensors: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """Matrices of one scheme and width, one below the other."""
    zeros = [tensor.zero_points for tensor in tensors if tensor.zero_points is not None]
    return replace(
        tensors[0],
        codes=np.concatenate([tensor.codes for tensor in tensors]),
        scales=np.concatenate([tensor.scales for tensor in tensors]),
        zero_points=np.concatenate(zeros) if zeros else None,
    )
