"""Header of an image file: format, size, and whether the file is complete.

Read before decoding, so that a small file with a huge image is refused early. Decodes no pixels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from palmtop.errors import InputError
from palmtop.runtime.bundle.stand_ins import START_BYTES, medium_in_text

EXPECTED = "expected a PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF or HEIC file"
_WIDTH, _HEIGHT = 256, 257

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """Format and stored size of an image, before orientation.

    Attributes:
        format: "PNG", "JPEG", "WebP", "BMP", "GIF", "TIFF", "AVIF" or "HEIC".
        width: width in pixels; 0 for AVIF and HEIC, where only the decoder can tell.
        height: height in pixels; 0 for AVIF and HEIC.
        is_whole: whether the end marker is there, or the format has none.
    """

    format: str
    width: int
    height: int
    is_whole: bool = True


def read_header(data: bytes, name: str) -> ImageHeader:
    """Read a file's header.

    Args:
        data: content of the whole file.
        name: name of the image in errors.

    Raises:
        InputError: the file is not an image of a known format, or ends inside its header.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _read_png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _read_webp(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            width, height = struct.unpack_from("<HH", data, 6)
            return ImageHeader(format="GIF", width=width, height=height)
        if data.startswith(b"BM"):
            is_old = struct.unpack_from("<I", data, 14)[0] == 12
            width, height = struct.unpack_from("<HH" if is_old else "<ii", data, 18)
            return ImageHeader(format="BMP", width=width, height=abs(height))
        if data[:4] in (b"II*\0", b"MM\0*"):
            tags = _tiff_tags(data)
            return ImageHeader(format="TIFF", width=tags[_WIDTH], height=tags[_HEIGHT])
        if data[4:8] == b"ftyp":
            brands = data[8 : min(struct.unpack_from(">I", data)[0], 256)]
            if b"avif" in brands or b"avis" in brands:
                return ImageHeader(format="AVIF", width=0, height=0)
            if any(brand in brands for brand in _HEIC_BRANDS):
                return ImageHeader(format="HEIC", width=0, height=0)
    except (struct.error, IndexError, KeyError) as error:
        raise InputError(f"{name}: the image ends inside its header, after {len(data)} bytes") from error
    if (text := medium_in_text(data[:START_BYTES])) is not None:
        raise InputError(f"{name}: {text}")
    found = "an empty file" if not data else f"{len(data)} bytes that begin with {data[:8]!r}"
    raise InputError(f"{name}: found {found}, {EXPECTED}")


def _read_png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    position, is_whole = 8, False
    while position + 8 <= len(data) and not is_whole:
        size, kind = struct.unpack_from(">I4s", data, position)
        is_whole = kind == b"IEND"
        position += size + 12
    return ImageHeader(format="PNG", width=width, height=height, is_whole=is_whole)


def _read_jpeg(data: bytes) -> ImageHeader:
    width = height = 0
    position = 2
    while True:
        while data[position] != 0xFF or data[position + 1] == 0xFF:  # fill bytes are allowed before a marker
            position += 1
        marker = data[position + 1]
        if marker == 0xDA:
            # Entropy-coded data escapes 0xFF, so an end marker behind the start of scan is a real one.
            is_whole = data.find(b"\xff\xd9", position) > 0 and width > 0
            return ImageHeader(format="JPEG", width=width, height=height, is_whole=is_whole)
        size = struct.unpack_from(">H", data, position + 2)[0]
        body = position + 4
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, body + 1)
        position += 2 + size


def _read_webp(data: bytes) -> ImageHeader:
    total = struct.unpack_from("<I", data, 4)[0] + 8
    position, width, height = 12, 0, 0
    while position + 8 <= min(total, len(data)):
        kind, size = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if kind == b"VP8X":
            width = int.from_bytes(data[body + 4 : body + 7], "little") + 1
            height = int.from_bytes(data[body + 7 : body + 10], "little") + 1
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, body + 6))
        elif kind == b"VP8L" and not width:
            bits = struct.unpack_from("<I", data, body + 1)[0]
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        position = body + size + size % 2
    is_whole = len(data) >= total and width > 0
    return ImageHeader(format="WebP", width=width, height=height, is_whole=is_whole)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Short and long tags of the first directory."""
    order = ">" if data[:2] == b"MM" else "<"
    start = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, start)[0]
    tags: dict[int, int] = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if kind in (3, 4):
            tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)[0]
    return tags
