"""Half-quadratic quantisation: move the zero points so that the error is sparse rather than small everywhere.

A few large errors on outliers cost less than a small one on every weight, so the error is measured by an
l_p norm with p < 1. The half-quadratic split alternates between two steps that have closed forms: shrink the
error, and fit the zero point to what is left. onnxruntime's zero points are whole numbers, so the fitted one
is rounded at the end, and kept only where that is no worse than plain rounding.

Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023, equations 3-7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import Coded, quantize_in_parts
from .rtn import code_range, grid, nearest, range_of
from .scheme import QuantizedTensor, Scheme
from .statistics import Statistics

P = 0.7
ROUNDS = 20
BETA, KAPPA = 10.0, 1.01  # strength of the split, and its growth a round


def hqq(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    """Quantise a matrix row by row, group by group; see ``Quantizer``. Needs no statistics.

    Without zero points to move it is plain rounding.
    """
    return quantize_in_parts(weight, scheme, lambda groups: _code(groups, scheme))


def _code(groups: NDArray[np.float32], scheme: Scheme) -> Coded:
    low, high = range_of(groups)
    plain = code_range(groups, low, high, scheme)
    if scheme.symmetric:
        return plain
    scales, zeros = grid(low, high, scheme)
    safe = np.where(scales > 0, scales, np.float32(1))
    beta = np.float32(BETA)
    for _ in range(ROUNDS):
        codes = nearest(groups, scales, zeros, scheme)
        off = groups - (codes - zeros) * scales
        off = _shrink(off, beta)
        zeros = (codes - (groups - off) / safe).mean(axis=0, dtype=np.float32)
        beta *= np.float32(KAPPA)
    zeros = np.rint(zeros).clip(0, scheme.levels)
    moved = nearest(groups, scales, zeros, scheme), scales, zeros
    is_worse = _norm(groups, moved) > _norm(groups, plain)
    return np.where(is_worse, plain[0], moved[0]), scales, np.where(is_worse, plain[2], zeros)


def _shrink(off: NDArray[np.float32], beta: np.float32) -> NDArray[np.float32]:
    """The generalised soft threshold that minimises ``|e|^p + beta/2 (e - off)^2``."""
    size = np.abs(off)
    with np.errstate(divide="ignore", over="ignore"):
        cut = np.exp(np.log(size) * np.float32(P - 1)) / beta  # five times as fast as a power; infinite at 0
    return np.sign(off) * np.maximum(size - cut, 0)


def _norm(groups: NDArray[np.float32], coded: Coded) -> NDArray[np.float32]:
    codes, scales, zeros = coded
    with np.errstate(divide="ignore"):
        off = np.log(np.abs((codes - zeros) * scales - groups))
    return np.asarray(np.exp(off * np.float32(P)).sum(axis=0))
