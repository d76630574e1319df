"""Clipped search: of several narrower ranges for a group, the one whose codes are nearest to the weights.

Round to nearest spends its codes on the two outermost weights; clipping those a little often makes the other
thirty more exact. Every candidate is judged by its squared error, group by group.

The groups are turned so that one lies down a column, and taken a few thousand at a time: each step of the
arithmetic is then a long loop over numbers that are still in the processor's cache. That is several times as
fast as the same arithmetic over [..., 32] arrays of a whole tensor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .rtn import from_range, to_groups
from .scheme import QuantizedTensor, Scheme

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
CACHED_WEIGHTS = 64 << 10  # in one pass: two float32 arrays of these are 512 KiB


def search(weight: NDArray[np.float32], scheme: Scheme) -> QuantizedTensor:
    """Quantise a matrix row by row, group by group.

    Args:
        weight: [N, K] float32, finite.
        scheme: bits, group, symmetric.

    Raises:
        QuantizeError: the matrix is not two-dimensional, or not finite.
    """
    groups = to_groups(weight, scheme)
    flat = groups.reshape(-1, scheme.group)
    low, high = np.empty(len(flat), np.float32), np.empty(len(flat), np.float32)
    step = max(1, CACHED_WEIGHTS // scheme.group)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        low[part], high[part] = _best_ranges(np.ascontiguousarray(flat[part].T), scheme)
    shape = groups.shape[:2]
    return from_range(groups, low.reshape(shape), high.reshape(shape), weight.shape[1], scheme)


def _best_ranges(columns: NDArray[np.float32], scheme: Scheme) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lower and upper ends [M] of the best range for each group of [G, M]."""
    low = np.minimum(columns.min(axis=0), 0)
    high = np.maximum(columns.max(axis=0), 0)
    factors = np.array(SHRINKS, np.float32)[:, None]
    scales, zeros = _steps(low * factors, high * factors, scheme)  # [shrinks, M]
    inverses = np.float32(1) / np.where(scales != 0, scales, np.float32(1))
    lowest, highest = -zeros, np.float32(scheme.levels) - zeros
    errors, off = np.empty_like(scales), np.empty_like(columns)
    for place in range(len(SHRINKS)):
        np.multiply(columns, inverses[place], out=off)
        np.rint(off, out=off)
        np.maximum(off, lowest[place], out=off)
        np.minimum(off, highest[place], out=off)
        np.multiply(off, scales[place], out=off)
        np.subtract(off, columns, out=off)
        np.multiply(off, off, out=off)
        np.add.reduce(off, axis=0, out=errors[place])
    best = factors[errors.argmin(axis=0), 0]  # the widest of equals
    return low * best, high * best


def _steps(
    low: NDArray[np.float32], high: NDArray[np.float32], scheme: Scheme
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales and zero points that codes for these ranges have."""
    if scheme.symmetric:
        peak = np.where(-low > high, low, high)
        return (peak / np.float32(-scheme.middle)).astype(np.float32), np.full(low.shape, scheme.middle, np.float32)
    scales = ((high - low) / np.float32(scheme.levels)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = np.where(scales > 0, np.rint(-low / scales), 0).astype(np.float32)
    return scales, zeros.clip(0, scheme.levels).astype(np.float32)
