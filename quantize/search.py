"""Clipped search: of several narrower ranges of a group, the one with the smallest squared error.

Round to nearest covers the two outermost weights of a group; clipping them a little often makes the other thirty more
exact. Candidates are compared by squared error, group by group.

The candidates share two buffers of the size of the part, which stay in the processor's cache, and codes are found by a
product instead of a quotient; the final codes are divided exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import Coded, quantize_in_parts
from .rtn import code_range, grid, range_of
from .scheme import QuantizedTensor, Scheme
from .statistics import Statistics

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


def search(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    """Quantise a matrix group by group with clipped search; see ``Quantizer``. Needs no statistics."""
    return quantize_in_parts(weight, scheme, lambda groups: search_range(groups, scheme, None, SHRINKS))


def search_range(
    groups: NDArray[np.float32], scheme: Scheme, importance: NDArray[np.float32] | None, shrinks: tuple[float, ...]
) -> Coded:
    """Return the codes for the best of several narrower ranges of every group.

    Args:
        groups: [G, N, K/G] weights.
        scheme: bits, group size, symmetry.
        importance: [G, 1, K/G] weights of the squared errors; None for equal ones.
        shrinks: factors of the whole range, tried in this order.
    """
    low, high = range_of(groups)
    factors = np.array(shrinks, np.float32)
    lows, highs = np.multiply.outer(factors, low), np.multiply.outer(factors, high)  # [shrinks, N, K/G]
    scales, zeros = grid(lows, highs, scheme)
    errors, off = np.empty_like(scales), np.empty_like(groups)
    for place in range(len(factors)):
        _squared_errors(groups, scales[place], zeros[place], scheme, off)
        if importance is not None:
            off *= importance
        np.add.reduce(off, axis=0, out=errors[place])
    best = factors[errors.argmin(axis=0)]  # the first of equals
    return code_range(groups, low * best, high * best, scheme)


def _squared_errors(
    groups: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32],
    scheme: Scheme,
    out: NDArray[np.float32],
) -> None:
    """Squared errors of the nearest codes, [G, N, K/G]."""
    np.multiply(groups, np.float32(1) / np.where(scales != 0, scales, np.float32(1)), out=out)
    np.rint(out, out=out)
    np.maximum(out, -zeros, out=out)
    np.minimum(out, np.float32(scheme.levels) - zeros, out=out)
    np.multiply(out, scales, out=out)
    np.subtract(out, groups, out=out)
    np.multiply(out, out, out=out)
