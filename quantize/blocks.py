"""Groups of a matrix, processed in parts that fit a core's cache. Chooses no codes and starts no threads.

Within a part the axis inside a group comes first, [G, N, K/G]: numpy then works along N and K/G, which are long and
contiguous, also for the smallest value of a group. That is 3 times as fast as [N, K/G, G].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import QuantizeError

from .pack import pack
from .scheme import QuantizedTensor, Scheme

PART_WEIGHTS = 1 << 16  # 256 KB of float32, and a few temporaries of that size, stay in the second-level cache

Coded = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Codes [G, N, K/G], scales [N, K/G], zero points [N, K/G]; codes and zero points are whole numbers."""

Coder = Callable[[NDArray[np.float32]], Coded]
"""Function that codes groups [G, N, K/G], the last of a row padded with zeros."""


def quantize_in_parts(weight: NDArray[np.float32], scheme: Scheme, coder: Coder) -> QuantizedTensor:
    """Quantise a matrix a few rows at a time with the given coder, and pack the codes.

    Args:
        weight: [N, K] float32.
        scheme: bits, group size, symmetry.
        coder: function that codes groups; called for one part after the other.

    Raises:
        QuantizeError: the matrix is not two-dimensional, or not finite.
    """
    check(weight)
    rows, columns = weight.shape
    groups = scheme.groups_per_row(columns)
    codes = np.empty((rows, groups, scheme.group * scheme.bits // 8), np.uint8)
    scales = np.empty((rows, groups), np.float32)
    zeros = np.empty((rows, groups), np.uint8)

    step = max(1, PART_WEIGHTS // max(1, groups * scheme.group))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        coded, scales[part], zeros[part] = coder(to_groups(weight[part], scheme))
        codes[part] = np.moveaxis(_pack_first_axis(coded.astype(np.uint8), scheme.bits), 0, -1)
    return QuantizedTensor(
        scheme=scheme,
        columns=columns,
        codes=codes,
        scales=scales,
        zero_points=None if scheme.symmetric else pack_zeros(zeros, scheme),
    )


def check(weight: NDArray[np.float32]) -> None:
    """Refuse a matrix that cannot be quantised.

    Raises:
        QuantizeError: the matrix is not two-dimensional, or not finite.
    """
    if weight.ndim != 2:
        raise QuantizeError(f"weight has {weight.ndim} dimensions, expected 2")
    if weight.size and not (np.isfinite(weight.max()) and np.isfinite(weight.min())):  # NaN propagates to both
        row = int(np.argwhere(~np.isfinite(weight))[0, 0])
        raise QuantizeError(f"weight has a value that is not finite in row {row}")


def to_groups(weight: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """Reshape [N, K] -> [G, N, K/G], the last group padded with zeros."""
    rows, columns = weight.shape
    padded = scheme.groups_per_row(columns) * scheme.group
    if padded != columns:
        weight = np.concatenate([weight, np.zeros((rows, padded - columns), np.float32)], axis=1)
    return np.ascontiguousarray(np.moveaxis(weight.reshape(rows, -1, scheme.group), -1, 0))


def importance_groups(importance: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """Reshape weights of squared errors: [K] -> [G, 1, K/G]."""
    return to_groups(importance[None], scheme)


def pack_zeros(zeros: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.uint8]:
    """Pack zero points [N, K/G] to bytes; an incomplete last byte is padded with the middle code, as in onnxruntime."""
    short = -zeros.shape[-1] % (8 // scheme.bits)
    return pack(np.pad(zeros, ((0, 0), (0, short)), constant_values=scheme.middle), scheme.bits)


def _pack_first_axis(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack [G, ...] -> [G*bits/8, ...]: as ``pack``, before the transposition of the bytes."""
    per_byte = 8 // bits
    packed = codes[0::per_byte].copy()
    for place in range(1, per_byte):
        packed |= codes[place::per_byte] << np.uint8(place * bits)
    return packed
