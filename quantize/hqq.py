"""Half-quadratic quantisation: fit each group's grid so that the error is sparse rather than small everywhere.

A few large errors on outliers cost less than a small one on every weight, so the error is measured by an
l_p norm with p < 1. The half-quadratic split alternates between two steps that have closed forms: shrink the
error, and fit the grid to what is left. The paper fits zero points alone, to fractions of a step (a tenth on
normal weights). onnxruntime's are whole numbers, which takes all of that back, so here the scale is fitted
together with the zero point, and once more when that has been rounded; each group keeps the best grid it met.

Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023, equations 3-7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import Coded, quantize_in_parts
from .rtn import grid, nearest, range_of
from .scheme import QuantizedTensor, Scheme
from .statistics import Statistics

P = 0.7
ROUNDS = 20
BETA, KAPPA = 10.0, 1.01  # strength of the split for weights of size 1, and its growth a round


def hqq(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    """Quantise a matrix row by row, group by group; see ``Quantizer``. Needs no statistics."""
    return quantize_in_parts(weight, scheme, lambda groups: _code(groups, scheme))


def _code(groups: NDArray[np.float32], scheme: Scheme) -> Coded:
    scales, zeros = grid(*range_of(groups), scheme)
    codes = nearest(groups, scales, zeros, scheme)
    best_scales, best_zeros, least = scales, zeros, _norm(groups, codes, scales, zeros)
    size: NDArray[np.float32] = np.sqrt(np.square(groups).mean(axis=0, dtype=np.float32))
    size[size == 0] = 1
    beta = np.float32(BETA)
    for _ in range(ROUNDS):
        off = groups - (codes - zeros) * scales
        aim = groups - _shrink(np.divide(off, size, dtype=np.float32), beta) * size
        scales, zeros = _fitted(codes, aim, scales, zeros, scheme)
        codes = nearest(groups, scales, zeros, scheme)
        norm = _norm(groups, codes, scales, zeros)
        is_better = norm < least
        best_scales, best_zeros = np.where(is_better, scales, best_scales), np.where(is_better, zeros, best_zeros)
        least = np.minimum(norm, least)
        beta *= np.float32(KAPPA)
    return nearest(groups, best_scales, best_zeros, scheme), best_scales, best_zeros


def _fitted(
    codes: NDArray[np.float32],
    aim: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32],
    scheme: Scheme,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales and whole zero points [N, K/G] for which ``(codes - zero) * scale`` is nearest to the aim [G, N, K/G]."""
    if not scheme.symmetric:
        middle, mean = codes.mean(axis=0), aim.mean(axis=0)
        apart = codes - middle
        slope = _ratio((apart * (aim - mean)).sum(axis=0), np.square(apart).sum(axis=0), scales)
        slope = np.where(slope > 0, slope, scales)
        zeros = np.rint(middle - _ratio(mean, slope, np.zeros_like(mean))).clip(0, scheme.levels)
    steps = codes - zeros
    fitted = _ratio((steps * aim).sum(axis=0), np.square(steps).sum(axis=0), scales)
    is_usable = fitted * scales > 0  # a symmetric grid's sign says which end has one step more
    return scheme.stored(np.where(is_usable, fitted, scales).astype(np.float32)), zeros.astype(np.float32)


def _ratio(
    above: NDArray[np.float32], below: NDArray[np.float32], otherwise: NDArray[np.float32]
) -> NDArray[np.float32]:
    is_there = below > 0
    return np.where(is_there, above / np.where(is_there, below, np.float32(1)), otherwise)


def _shrink(off: NDArray[np.float32], beta: np.float32) -> NDArray[np.float32]:
    """The generalised soft threshold that minimises ``|e|^p + beta/2 (e - off)^2``."""
    size = np.abs(off)
    with np.errstate(divide="ignore", over="ignore"):
        cut = np.exp(np.log(size) * np.float32(P - 1)) / beta  # several times as fast as a power; infinite at 0
    return np.sign(off) * np.maximum(size - cut, 0)


def _norm(
    groups: NDArray[np.float32], codes: NDArray[np.float32], scales: NDArray[np.float32], zeros: NDArray[np.float32]
) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        off = np.log(np.abs((codes - zeros) * scales - groups))
    return np.asarray(np.exp(off * np.float32(P)).sum(axis=0))
