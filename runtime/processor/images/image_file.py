"""Decoder of image files to RGB arrays, equal to transformers' image loading.

Pillow decodes, as it does there: palettes, masks, row orders, CMYK and EXIF orientation are its own. Transparent pixels
are blended with white. Two differences: 16-bit grey keeps its upper 8 bits, where Pillow clips values above 255; a BMP
whose alpha is 0 everywhere is opaque.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.packages import install_command
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.shown import shown

from .bmp_masks import masked_pixels
from .image_header import EXPECTED, ImageHeader, read_header

MAX_PIXELS = 1 << 27
"""Most pixels of an image: 400 MB when decoded."""
MAX_FILE_BYTES = 1 << 28
BLEND_ROWS = 256
"""Rows blended with white at a time; bounds working memory and the time to a cancellation."""
_WARNINGS = threading.Lock()
_QUIET = logging.NullHandler()


def load_image(source: str | Path | bytes | NDArray[np.uint8], between: Between = go_on) -> NDArray[np.uint8]:
    """Decode an image, upright and without alpha; of an animation, the first frame.

    Args:
        source: a path, the bytes of a file, or pixels: [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA.
        between: called between two steps of the work; Pillow's decoding is one step, of ``MAX_PIXELS`` at most.

    Returns:
        The pixels, [H, W, 3] RGB.

    Raises:
        InputError: the image is missing, empty, truncated, too large, or not an image.
    """
    if isinstance(source, np.ndarray):
        return _from_pixels(source, "image array", between)
    if not isinstance(source, (str, Path, bytes)):
        raise InputError(f"image: found {type(source).__name__}, expected a path, bytes, or an array of pixels")
    name = shown(source, "image")
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


def pixels_of(picture: Any, name: str) -> NDArray[np.uint8]:
    """Return the pixels of a picture of Pillow, upright; of an animation, the frame that it shows.

    Args:
        picture: a ``PIL.Image.Image``.
        name: name of the picture in errors.

    Returns:
        The pixels, [H, W], [H, W, 3] RGB or [H, W, 4] RGBA.

    Raises:
        InputError: the picture cannot be decoded, or is too large.
    """
    from PIL import ImageOps

    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width} x {picture.height} pixels"
        raise InputError(f"{name}: found a picture of {size}, expected at most {MAX_PIXELS} in all")
    try:
        upright: Any = picture
        picture.load()
        with contextlib.suppress(Exception):  # broken EXIF is no reason to refuse an image
            upright = ImageOps.exif_transpose(picture)
        return _as_pixels(upright, is_bmp=picture.format == "BMP")
    except Exception as error:  # a closed or truncated file: any exception
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{name}: the picture cannot be decoded ({reason})") from error


def _read_file(path: Path, name: str) -> bytes:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{name}: is a device or a pipe, {EXPECTED}")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{name}: found {size} bytes, expected an image of at most {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        hint = "; base64 goes into a data: address" if error.errno == errno.ENAMETOOLONG else ""
        raise InputError(f"{name}: {error.strerror or error}, {EXPECTED}{hint}") from error
    except ValueError as error:  # a NUL byte, or half a surrogate pair
        raise InputError(f"{name!r}: is no path ({error}), {EXPECTED}") from error


def _decode(data: bytes, header: ImageHeader, name: str) -> NDArray[Any]:
    """Decode to grey, RGB or RGBA pixels, upright, 8 bits."""
    from PIL import Image, ImageOps, features

    # Without a handler of its own, logging would write Pillow's notes about odd files to standard error.
    logging.getLogger("PIL").addHandler(_QUIET)
    if header.format == "HEIC":
        try:
            pillow_heif: Any = importlib.import_module("pillow_heif")
        except ImportError as error:
            raise InputError(
                f"{name}: found a HEIC file, which needs pillow-heif: {install_command('media', 'pillow-heif')}, "
                "or save the picture as JPEG"
            ) from error
        pillow_heif.register_heif_opener()
    if header.format == "AVIF" and not features.check("avif"):
        raise InputError(
            f"{name}: found an AVIF file, which this build of Pillow does not read: pip install -U pillow, or save the "
            "picture as JPEG"
        )
    form = {"HEIC": "HEIF", "WebP": "WEBP"}.get(header.format, header.format)
    with _WARNINGS, warnings.catch_warnings():  # warnings about large images and odd metadata, not useful to a user
        warnings.simplefilter("ignore")
        try:
            if form == "BMP" and (masked := masked_pixels(data)) is not None:
                return masked
            # Named, so that no other of Pillow's decoders is tried; an MPO is a JPEG followed by more images.
            with Image.open(io.BytesIO(data), formats=[form, "MPO"] if form == "JPEG" else [form]) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width} x {image.height} pixels"
                    raise InputError(f"{name}: found a {header.format} of {size}, expected at most {MAX_PIXELS} in all")
                image.load()
                upright: Any = image
                with contextlib.suppress(Exception):  # broken EXIF is no reason to refuse an image
                    upright = ImageOps.exif_transpose(image)
                return _as_pixels(upright, is_bmp=form == "BMP")
        except (InputError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise any exception for a damaged file
            reason = " ".join(str(error).split())[:100]
            found = f"{len(data)} bytes ({reason})"
            raise InputError(f"{name}: the {header.format} file is damaged or truncated, found {found}") from error


def _as_pixels(image: Any, *, is_bmp: bool) -> NDArray[np.uint8]:
    """Return pixels as [H, W], [H, W, 3] or [H, W, 4]."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image)
        levels = np.asarray(grey >> 8, np.uint8)
        clear = image.info.get("transparency")
        return np.where(grey == clear, np.uint8(255), levels) if isinstance(clear, int) else levels
    if image.mode == "I":  # Pillow before 12 gives 16-bit grey in 32 bits
        return np.asarray(np.clip(np.asarray(image) >> 8, 0, 255), np.uint8)
    is_clear = image.has_transparency_data
    if not is_clear and image.mode == "L":
        return np.asarray(image)
    pixels = np.asarray(image.convert("RGBA" if is_clear else "RGB"))
    if is_bmp and is_clear and not pixels[:, :, 3].any():
        return pixels[:, :, :3]  # written by programs that leave the byte unused; browsers show it as opaque, too
    return pixels


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


def _lay_over_white(image: NDArray[np.uint8], between: Between) -> NDArray[np.uint8]:
    """Blend with opaque white, with the integer rounding of Pillow's alpha_composite."""
    result = np.empty((*image.shape[:2], 3), np.uint8)
    for top in range(0, len(image), BLEND_ROWS):
        between()
        rows = image[top : top + BLEND_ROWS]
        alpha = rows[:, :, 3:].astype(np.uint32)
        blend = (rows[:, :, :3] * alpha + 255 * (255 - alpha) + 128) << 7
        result[top : top + BLEND_ROWS] = (((blend >> 8) + blend) >> 8) >> 7
    return result
