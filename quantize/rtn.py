"""Round to nearest: a group's range is mapped onto the codes, each weight goes to the nearest one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import Coded, quantize_in_parts
from .pack import unpack
from .scheme import QuantizedTensor, Scheme
from .statistics import Statistics


def rtn(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    """Quantise a matrix row by row, group by group; see ``Quantizer``. Needs no statistics."""
    return quantize_in_parts(weight, scheme, lambda groups: code_range(groups, *range_of(groups), scheme))


def range_of(groups: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest of each group [G, N, K/G], zero always among them."""
    return np.minimum(groups.min(axis=0), 0), np.maximum(groups.max(axis=0), 0)


def code_range(
    groups: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32], scheme: Scheme
) -> Coded:
    """Codes for given ranges: the last step of every method that chooses a range.

    Args:
        groups: [G, N, K/G].
        low: [N, K/G] lower end, <= 0.
        high: [N, K/G] upper end, >= 0.
        scheme: bits, group, symmetric.
    """
    scales, zeros = grid(low, high, scheme)
    return nearest(groups, scales, zeros, scheme), scales, zeros


def grid(
    low: NDArray[np.float32], high: NDArray[np.float32], scheme: Scheme
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales and zero points [N, K/G] that cover a range."""
    if scheme.symmetric:
        # Codes reach one step further below the zero; a negative scale gives that step to a positive peak.
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
    """[G, N, K/G] codes whose values are nearest to the weights."""
    codes = groups / np.where(scales != 0, scales, np.float32(1))
    np.rint(codes, out=codes)
    codes += zeros
    np.maximum(codes, 0, out=codes)
    return np.minimum(codes, np.float32(scheme.levels), out=codes)


def dequantize(tensor: QuantizedTensor) -> NDArray[np.float32]:
    """[N, K] float32, as the kernels compute it: ``(code - zero) * scale``."""
    scheme = tensor.scheme
    rows, groups = tensor.scales.shape
    codes = unpack(tensor.codes, scheme.bits, scheme.group).astype(np.float32)
    zeros = (
        np.full((rows, groups), scheme.middle, np.float32)
        if tensor.zero_points is None
        else unpack(tensor.zero_points, scheme.bits, groups).astype(np.float32)
    )
    return ((codes - zeros[..., None]) * tensor.scales[..., None]).reshape(rows, -1)[:, : tensor.columns]
