"""Round to nearest: the range of a group is mapped to the codes, and each weight is rounded to the nearest one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import Coded, quantize_in_parts
from .pack import unpack
from .scheme import QuantizedTensor, Scheme
from .statistics import Statistics


def rtn(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    """Quantise a matrix group by group with round to nearest; see ``Quantizer``. Needs no statistics."""
    return quantize_in_parts(weight, scheme, lambda groups: code_range(groups, *range_of(groups), scheme))


def range_of(groups: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the lowest and highest value of each group [G, N, K/G], extended to include zero."""
    return np.minimum(groups.min(axis=0), 0), np.maximum(groups.max(axis=0), 0)


def code_range(
    groups: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32], scheme: Scheme
) -> Coded:
    """Code groups with given ranges: the last step of every method that chooses a range.

    Args:
        groups: [G, N, K/G] weights.
        low: [N, K/G] lower ends of the ranges, <= 0.
        high: [N, K/G] upper ends of the ranges, >= 0.
        scheme: bits, group size, symmetry.
    """
    scales, zeros = grid(low, high, scheme)
    return nearest(groups, scales, zeros, scheme), scales, zeros


def grid(
    low: NDArray[np.float32], high: NDArray[np.float32], scheme: Scheme
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scales and zero points [N, K/G] of grids that cover the ranges."""
    if scheme.symmetric:
        # Codes reach one step further below zero than above; a negative scale gives that step to a positive peak.
        peak = np.where(-low > high, low, high)
        scales = scheme.stored((peak / np.float32(-scheme.middle)).astype(np.float32))
        return scales, np.full(scales.shape, scheme.middle, np.float32)
    scales = scheme.stored(((high - low) / np.float32(scheme.levels)).astype(np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = np.where(scales > 0, np.rint(-low / scales), 0).astype(np.float32)
    return scales, zeros.clip(0, scheme.levels)


def nearest(
    groups: NDArray[np.float32], scales: NDArray[np.float32], zeros: NDArray[np.float32], scheme: Scheme
) -> NDArray[np.float32]:
    """Return the codes [G, N, K/G] whose values are nearest to the weights."""
    codes = groups / np.where(scales != 0, scales, np.float32(1))
    np.rint(codes, out=codes)
    codes += zeros
    np.maximum(codes, 0, out=codes)
    return np.minimum(codes, np.float32(scheme.levels), out=codes)


def dequantize(tensor: QuantizedTensor) -> NDArray[np.float32]:
    """Return the matrix as the kernels compute it, [N, K] float32: ``(code - zero) * scale``."""
    scheme = tensor.scheme
    rows, groups = tensor.scales.shape
    codes = unpack(tensor.codes, scheme.bits, scheme.group).astype(np.float32)
    zeros = (
        np.full((rows, groups), scheme.middle, np.float32)
        if tensor.zero_points is None
        else unpack(tensor.zero_points, scheme.bits, groups).astype(np.float32)
    )
    return ((codes - zeros[..., None]) * tensor.scales[..., None]).reshape(rows, -1)[:, : tensor.columns]
