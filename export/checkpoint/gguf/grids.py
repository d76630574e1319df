"""GGUF's simple grids in onnxruntime's layout, if the dequantised weights stay the same bit for bit.

Both have groups of 32 along a row and a float16 scale d. Q4_0 is ``d * (q - 8)`` and Q8_0 ``d * q``, which have the
zero in the middle. Q4_1 is ``d * q + m``; the zero point here is a whole number, so m has to be ``-zero * d``, which a
quantiser that fits m freely almost never gives. Source: ggml-quants.c; layouts as in the package ``gguf``.
"""

from __future__ import annotations

import gguf
import numpy as np
from numpy.typing import NDArray

from palmtop.quantize.blocks import pack_zeros
from palmtop.quantize.pack import pack
from palmtop.quantize.scheme import QuantizedTensor, Scheme

GROUP = 32
Q4_0, Q4_1, Q8_0 = (gguf.GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q8_0"))
GRIDS = {Q4_0: 4, Q4_1: 4, Q8_0: 8}
"""Bits of the grids that may fit."""


def fits(kind: gguf.GGMLQuantizationType, scheme: Scheme | None) -> bool:
    """Return whether a scheme can represent a type for any values; for Q4_1 it depends on the values."""
    return scheme is not None and GRIDS.get(kind) == scheme.bits and scheme.group == GROUP


def coded(
    raw: NDArray[np.uint8], kind: gguf.GGMLQuantizationType, columns: int, scheme: Scheme
) -> QuantizedTensor | None:
    """Return rows of blocks as codes, scales and zero points; None if that would change a weight.

    Args:
        raw: [N, bytes of a row] uint8.
        kind: type of the tensor.
        columns: K, a multiple of 32.
        scheme: requested scheme.
    """
    if not fits(kind, scheme):
        return None
    blocks = raw.reshape(len(raw), columns // GROUP, -1)  # [N, K/32, bytes of a block]
    scales = _float16(blocks[..., :2])
    if not np.isfinite(scales).all():
        return None
    if kind == Q8_0:
        codes = blocks[..., 2:] ^ np.uint8(0x80)  # two's complement + 128
        zeros = np.full(scales.shape, scheme.middle, np.uint8)
    else:
        nibbles = blocks[..., -GROUP // 2 :]
        codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)  # the low nibbles are the first half
        zeros = np.full(scales.shape, scheme.middle, np.uint8)
        if kind == Q4_1:
            found = _zeros(scales, _float16(blocks[..., 2:4]), scheme)
            if found is None:
                return None
            zeros = found
    return QuantizedTensor(
        scheme=scheme,
        columns=columns,
        codes=pack(codes, scheme.bits),
        scales=scales,
        zero_points=None if scheme.symmetric else pack_zeros(zeros, scheme),
    )


def _zeros(scales: NDArray[np.float32], least: NDArray[np.float32], scheme: Scheme) -> NDArray[np.uint8] | None:
    """Zero points [N, K/32] that map code 0 to exactly ``least``; None if one would be no code."""
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = np.rint(np.where(scales == 0, 0, -least / scales))
    is_exact = np.isfinite(zeros).all() and (zeros >= 0).all() and (zeros <= scheme.levels).all()
    if not is_exact or (-zeros * scales != least).any():
        return None
    if scheme.symmetric and (zeros != scheme.middle).any():
        return None
    return zeros.astype(np.uint8)


def _float16(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Read float16 numbers, [..., 2] bytes -> [...]."""
    return np.ascontiguousarray(data).view("<f2")[..., 0].astype(np.float32)
