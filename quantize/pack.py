"""Conversion of codes of 2, 4 or 8 bits to bytes and back. No arithmetic on weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import QuantizeError


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack the last axis, first code in the low bits; an incomplete last byte is padded with zeros.

    Args:
        codes: [..., n] values below ``2 ** bits``.
        bits: bits of a code: 2, 4 or 8.

    Returns:
        [..., ceil(n * bits / 8)] bytes.

    Raises:
        QuantizeError: a code needs more bits.

    Source: onnxruntime ContribOperators.md, com.microsoft.MatMulNBits, input B.

    >>> pack(np.array([[1, 2, 3]], np.uint8), 4).tolist()
    [[33, 3]]
    """
    if codes.size and int(codes.max()) >> bits:
        raise QuantizeError(f"code {int(codes.max())} does not fit into {bits} bits")
    per_byte = 8 // bits
    if per_byte == 1:
        return np.ascontiguousarray(codes)
    if short := -codes.shape[-1] % per_byte:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], short), np.uint8)], axis=-1)
    packed = codes[..., 0::per_byte].copy()
    for place in range(1, per_byte):
        packed |= codes[..., place::per_byte] << np.uint8(place * bits)
    return packed


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Unpack bytes to codes, the inverse of ``pack``: [..., bytes] -> [..., count]."""
    per_byte = 8 // bits
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * per_byte), np.uint8)
    for place in range(per_byte):
        codes[..., place::per_byte] = (packed >> np.uint8(place * bits)) & np.uint8((1 << bits) - 1)
    return codes[..., :count]
