"""Image files become RGB arrays, as transformers' image loading would show them.

Equal to Pillow's ``exif_transpose`` and transformers' ``convert_to_rgb``: transparent pixels are laid over
white. One stated difference: 16-bit grey keeps its upper 8 bits, where Pillow clips everything above 255.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.processor.cancellation_points import Between, go_on

from .image_header import EXPECTED, ImageHeader, read_header

MAX_PIXELS = 1 << 27
"""Decoded, this many pixels are 400 MB."""
MAX_FILE_BYTES = 1 << 28
BLEND_ROWS = 256
"""Rows laid over white at a time: bounds working memory and the wait for whoever wants to stop."""


def load_image(source: str | Path | bytes | NDArray[np.uint8], between: Between = go_on) -> NDArray[np.uint8]:
    """Decode an image, upright and without alpha.

    Args:
        source: a path, the bytes of a file, or pixels: [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA.
        between: called between two pieces of the work; OpenCV's decoding is one piece, of ``MAX_PIXELS`` at most.

    Returns:
        [H, W, 3] RGB.

    Raises:
        InputError: missing, empty, truncated, too large, or not an image.
    """
    if isinstance(source, np.ndarray):
        return _from_pixels(source, "image array", between)
    if not isinstance(source, (str, Path, bytes)):
        raise InputError(f"image: found {type(source).__name__}, expected a path, bytes, or an array of pixels")
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read_file(Path(source), name)
    header = read_header(data, name)
    if not header.is_whole:
        found = f"{len(data)} bytes"
        raise InputError(f"{name}: the {header.format} file is truncated: found {found} without an end marker")
    if header.width * header.height > MAX_PIXELS:
        size = f"{header.width} x {header.height} pixels"
        raise InputError(f"{name}: found a {header.format} of {size}, expected at most {MAX_PIXELS} in all")
    between()
    pixels = _decode(data, header, name)
    between()
    return _from_pixels(pixels, name, between)


def _read_file(path: Path, name: str) -> bytes:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{name}: is a device or a pipe, {EXPECTED}")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{name}: found {size} bytes, expected an image of at most {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}, {EXPECTED}") from error
    except ValueError as error:  # a NUL byte, or half a surrogate pair
        raise InputError(f"{name!r}: is no path ({error}), {EXPECTED}") from error


def _decode(data: bytes, header: ImageHeader, name: str) -> NDArray[Any]:
    """Grey, RGB or RGBA pixels, upright, 8 or 16 bits."""
    import cv2

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error below says it better
    try:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"{name}: the {header.format} file cannot be decoded: {error.err}") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if image is None:
        raise InputError(f"{name}: the {header.format} file is damaged or truncated, found {len(data)} bytes")
    if image.ndim == 2 and header.clear_level is not None:
        image = np.where(image == header.clear_level, np.array(-1).astype(image.dtype), image)
    if image.ndim == 3 and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    elif image.ndim == 3 and image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
        if header.format == "TIFF" and image.dtype == np.uint8:
            return _turn_upright(_finish_blend(image), header.orientation)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return _turn_upright(image, header.orientation)


def _turn_upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo EXIF orientation 1..8."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _from_pixels(image: NDArray[Any], name: str, between: Between) -> NDArray[np.uint8]:
    if image.dtype != np.uint8:
        raise InputError(f"{name}: the pixels are {image.dtype}, expected uint8")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise InputError(f"{name}: the pixels are {list(image.shape)}, expected [H, W], [H, W, 3] or [H, W, 4]")
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    elif image.shape[2] == 4:
        image = _lay_over_white(image, between)
    return np.ascontiguousarray(image)


def _finish_blend(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Over white, where libtiff has multiplied the colours by alpha already; within 1 level of Pillow."""
    blend = image[:, :, :3] + (255 - image[:, :, 3:].astype(np.uint16))
    return np.asarray(np.minimum(blend, 255), np.uint8)


def _lay_over_white(image: NDArray[np.uint8], between: Between) -> NDArray[np.uint8]:
    """Pillow's alpha_composite onto opaque white, with its integer rounding."""
    result = np.empty((*image.shape[:2], 3), np.uint8)
    for top in range(0, len(image), BLEND_ROWS):
        between()
        rows = image[top : top + BLEND_ROWS]
        alpha = rows[:, :, 3:].astype(np.uint32)
        blend = (rows[:, :, :3] * alpha + 255 * (255 - alpha) + 128) << 7
        result[top : top + BLEND_ROWS] = (((blend >> 8) + blend) >> 8) >> 7
    return result
