"""Round to nearest: a group's range is mapped onto the codes, each weight goes to the nearest one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import QuantizeError

from .pack import pack, unpack
from .scheme import QuantizedTensor, Scheme


def rtn(weight: NDArray[np.float32], scheme: Scheme) -> QuantizedTensor:
    """Quantise a matrix row by row, group by group.

    Args:
        weight: [N, K] float32, finite.
        scheme: bits, group, symmetric.

    Raises:
        QuantizeError: the matrix is not two-dimensional, or not finite.
    """
    groups = to_groups(weight, scheme)
    low = np.minimum(groups.min(axis=-1), 0)
    high = np.maximum(groups.max(axis=-1), 0)
    return from_range(groups, low, high, weight.shape[1], scheme)


def to_groups(weight: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """[N, K] -> [N, K/G, G], the last group padded with zeros; refuses what cannot be quantised."""
    if weight.ndim != 2:
        raise QuantizeError(f"weight has {weight.ndim} dimensions, expected 2")
    if not np.isfinite(weight).all():
        row = int(np.argwhere(~np.isfinite(weight))[0, 0])
        raise QuantizeError(f"weight has a value that is not finite in row {row}")
    rows, columns = weight.shape
    padded = scheme.groups_per_row(columns) * scheme.group
    if padded != columns:
        weight = np.concatenate([weight, np.zeros((rows, padded - columns), np.float32)], axis=1)
    return weight.reshape(rows, -1, scheme.group)


def from_range(
    groups: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    columns: int,
    scheme: Scheme,
) -> QuantizedTensor:
    """Codes for given ranges: the last step of every method that chooses a range.

    Args:
        groups: [N, K/G, G] padded weights.
        low: [N, K/G] lower end, <= 0.
        high: [N, K/G] upper end, >= 0.
        columns: K before padding.
        scheme: bits, group, symmetric.
    """
    codes, scales, zeros = code_range(groups, low, high, scheme)
    return QuantizedTensor(
        scheme=scheme,
        columns=columns,
        codes=pack(codes.astype(np.uint8), scheme.bits),
        scales=scales,
        zero_points=None if scheme.symmetric else _pack_zeros(zeros.astype(np.uint8), scheme),
    )


def code_range(
    groups: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32], scheme: Scheme
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Codes [N, K/G, G], scales [N, K/G] and zero points [N, K/G], all whole numbers but the scales."""
    if scheme.symmetric:
        # Codes reach one step further below the zero; a negative scale gives that step to a positive peak.
        peak = np.where(-low > high, low, high)
        scales = (peak / np.float32(-scheme.middle)).astype(np.float32)
        zeros = np.full(scales.shape, scheme.middle, np.float32)
    else:
        scales = ((high - low) / scheme.levels).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            zeros = np.where(scales > 0, np.rint(-low / scales), 0).astype(np.float32)
        zeros = zeros.clip(0, scheme.levels)
    safe = np.where(scales != 0, scales, np.float32(1))[..., None]
    codes = (np.rint(groups / safe) + zeros[..., None]).clip(0, scheme.levels)
    return codes, scales, zeros


def _pack_zeros(zeros: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.uint8]:
    """[N, K/G] -> bytes; a last byte that is not full is filled up with the middle, as onnxruntime does."""
    short = -zeros.shape[-1] % (8 // scheme.bits)
    return pack(np.pad(zeros, ((0, 0), (0, short)), constant_values=scheme.middle), scheme.bits)


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
