"""Coordinate descent on the output error of a quantised layer: scales and codes, one after the other.

A method that processes the weights of a row once, like gptq, chooses its grids before any code, and a code before the
later ones. Here all values are known: every scale in turn is set to the best one while all else stays, then every code
is. Zero points stay; no step makes the output error larger, except for the rounding of a scale to 16 bits.

The steps are those of Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", 2023,
section 3, for codes; the scale of a group is the same least-squares problem in one unknown.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scheme import Scheme

Array = NDArray[np.float32]

BLOCK = 64  # columns whose changes are collected and applied to the rest at once


def refine(
    weight: Array,
    scheme: Scheme,
    codes: Array,
    scales: Array,
    zeros: Array,
    moments: Array,
    damping: float,
    passes: int,
) -> None:
    """Improve codes and scales in place.

    Args:
        weight: [N, K] float32, the exact weights.
        scheme: scheme of the codes.
        codes: [N, K] whole numbers.
        scales: [N, K/G] float32, as they are stored.
        zeros: [N, K/G] zero points, whole numbers.
        moments: [K, K] second moments of the layer's inputs.
        damping: value added to their diagonal, above 0.
        passes: number of passes over all scales and codes.
    """
    columns = weight.shape[1]
    for _ in range(passes):
        gradient = _gradient(weight, scheme, codes, scales, zeros, moments, damping)
        for group in range(scales.shape[1]):
            own = slice(group * scheme.group, min(columns, (group + 1) * scheme.group))
            _refine_scales(
                scheme, codes[:, own] - zeros[:, group, None], scales[:, group], gradient, own, moments, damping
            )
        gradient = _gradient(weight, scheme, codes, scales, zeros, moments, damping)
        for begin in range(0, columns, BLOCK):
            own = slice(begin, min(columns, begin + BLOCK))
            _refine_codes(scheme, codes, scales, gradient, own, moments, damping)


def _gradient(
    weight: Array, scheme: Scheme, codes: Array, scales: Array, zeros: Array, moments: Array, damping: float
) -> Array:
    """Negative gradient [N, K] of half the error by the codes' values: remaining error times the moments."""
    off = np.repeat(zeros, scheme.group, axis=1)[:, : weight.shape[1]]
    np.subtract(codes, off, out=off)
    off *= np.repeat(scales, scheme.group, axis=1)[:, : weight.shape[1]]
    np.subtract(weight, off, out=off)
    gradient = np.asarray(off @ moments, np.float32)
    off *= np.float32(damping)
    gradient += off
    return gradient


def _refine_scales(
    scheme: Scheme, steps: Array, scales: Array, gradient: Array, own: slice, moments: Array, damping: float
) -> None:
    """Set the best scale of one group of every row; ``steps`` [N, G] are its codes minus its zero points."""
    curvature = np.einsum("ng,ng->n", steps @ moments[own, own], steps) + np.float32(damping) * (steps**2).sum(axis=1)
    slope = np.einsum("ng,ng->n", steps, gradient[:, own])
    better = scheme.stored(scales + np.where(curvature > 0, slope / np.where(curvature > 0, curvature, 1), 0))
    change = (better - scales)[:, None] * steps
    scales[:] = better
    gradient -= change @ moments[own]
    gradient[:, own] -= np.float32(damping) * change


def _refine_codes(
    scheme: Scheme, codes: Array, scales: Array, gradient: Array, own: slice, moments: Array, damping: float
) -> None:
    """Set the best code of every row in each of a few columns, one column after the other."""
    left = gradient[:, own].T.copy()  # a column is contiguous
    change = np.empty_like(left)
    for place, column in enumerate(range(own.start, own.stop)):
        step = scales[:, column // scheme.group]
        curvature = moments[column, column] + np.float32(damping)
        wanted = left[place] / (curvature * np.where(step != 0, step, np.float32(1)))
        better = np.rint(codes[:, column] + wanted).clip(0, scheme.levels)
        change[place] = (better - codes[:, column]) * step
        codes[:, column] = better
        left -= moments[own, column, None] * change[place]
        left[place] -= np.float32(damping) * change[place]
    gradient -= change.T @ moments[own]
    gradient[:, own] -= np.float32(damping) * change.T
