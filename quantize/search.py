"""Clipped search: of several narrower ranges for a group, the one whose codes are nearest to the weights.

Round to nearest spends its codes on the two outermost weights; clipping those a little often makes the other
thirty more exact. Every candidate is judged by its squared error, group by group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import Coded, quantize_in_parts
from .rtn import code_range, range_of
from .scheme import QuantizedTensor, Scheme
from .statistics import Statistics

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


def search(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    """Quantise a matrix row by row, group by group; see ``Quantizer``. Needs no statistics."""
    return quantize_in_parts(weight, scheme, lambda groups: search_range(groups, scheme, None, SHRINKS))


def search_range(
    groups: NDArray[np.float32], scheme: Scheme, importance: NDArray[np.float32] | None, shrinks: tuple[float, ...]
) -> Coded:
    """The best of several shrunken ranges for every group.

    Args:
        groups: [G, N, K/G].
        scheme: bits, group, symmetric.
        importance: [G, 1, K/G] weights of the squared errors; None for equal ones.
        shrinks: factors of the whole range, tried in this order.
    """
    low, high = range_of(groups)
    best_error = np.full(low.shape, np.inf, np.float32)
    best_low, best_high = low, high
    for shrink in shrinks:
        factor = np.float32(shrink)
        error = squared_error(groups, code_range(groups, low * factor, high * factor, scheme), importance)
        is_better = error < best_error
        best_error = np.where(is_better, error, best_error)
        best_low = np.where(is_better, low * factor, best_low)
        best_high = np.where(is_better, high * factor, best_high)
    return code_range(groups, best_low, best_high, scheme)


def squared_error(
    groups: NDArray[np.float32], coded: Coded, importance: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """[N, K/G] of what codes are off by, weighed."""
    codes, scales, zeros = coded
    off = (codes - zeros) * scales - groups
    off *= off
    if importance is not None:
        off *= importance
    return np.asarray(off.sum(axis=0))
