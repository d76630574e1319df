"""BMPs whose pixels are words with a bit mask for each channel (BITFIELDS); Pillow reads only some of the masks."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_MASKED = (3, 6)  # compression: three masks, or four with alpha
_MASKS_AT = 54  # bytes: in the header, or behind the shortest one
_WITH_ALPHA = 56  # bytes of the shortest header that has a mask for alpha


def masked_pixels(data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of a BMP with masks, [H, W, 3] RGB or [H, W, 4] RGBA; None for other BMPs.

    A mask for alpha counts only if a pixel has a bit in it: some programs leave it unused.

    Args:
        data: content of the whole file.

    Raises:
        ValueError: a mask has a gap or is empty, or rows are missing.
    """
    if len(data) < _MASKS_AT + 16:
        return None
    start, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
    if compression not in _MASKED or bits not in (16, 32) or header < 40 or not width > 0:
        return None
    masks = struct.unpack_from("<4I", data, _MASKS_AT)
    kept = masks if masks[3] and (header >= _WITH_ALPHA or compression == 6) else masks[:3]
    row_bytes = (width * bits // 8 + 3) // 4 * 4
    count = abs(height)
    if start + row_bytes * count > len(data):
        raise ValueError(f"{len(data)} bytes, expected {start + row_bytes * count}")
    stored = np.frombuffer(data, np.uint8, row_bytes * count, start).reshape(count, row_bytes)
    words = stored[:, : width * bits // 8].copy().view(f"<u{bits // 8}")
    words = words if height < 0 else words[::-1]
    pixels = np.stack([_channel(words, mask) for mask in kept], axis=2)
    return pixels if pixels.shape[2] == 3 or pixels[:, :, 3].any() else pixels[:, :, :3]


def _channel(words: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    shift = (mask & -mask).bit_length() - 1
    most = mask >> max(shift, 0)
    if not mask or most & (most + 1):
        raise ValueError(f"a mask is {mask:#x}, expected bits in a row")
    return ((words >> shift & most).astype(np.uint64) * 255 // most).astype(np.uint8)
