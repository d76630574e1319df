"""Pictures whose alpha, palette, row order, bit depth or orientation is unusual look as Pillow shows them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from palmtop.errors import InputError
from palmtop.runtime.processor.images.image_file import load_image

HEIGHT, WIDTH = 37, 45  # neither is a multiple of 4: every row padding counts
_MASKS_565 = struct.pack("<III", 0xF800, 0x07E0, 0x001F)


@pytest.fixture(scope="module")
def rgb() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([rows * 6, columns * 5, (rows + columns) * 3], axis=2).astype(np.uint8)
    image[5:15, 8:20] = (250, 20, 30)
    return image


def bmp(
    rows: list[bytes],
    bits: int,
    *,
    compression: int = 0,
    palette: bytes = b"",
    masks: bytes = b"",
    version: int = 40,
    down: bool = False,
) -> bytes:
    """A BMP of stored rows, which are already in file order."""
    pixels = b"".join(row + bytes(-len(row) % 4) if compression in (0, 3, 6) else row for row in rows)
    height = -HEIGHT if down else HEIGHT
    header = struct.pack(
        "<IiiHHIIiiII", version, WIDTH, height, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0
    )
    header += (masks.ljust(16, b"\0") + b"BGRs").ljust(version - 40, b"\0") if version > 40 else masks
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def expected(data: bytes) -> NDArray[np.uint8]:
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB"))


def difference(data: bytes, wanted: NDArray[np.uint8] | None = None) -> float:
    found = load_image(data).astype(int)
    wanted = expected(data) if wanted is None else wanted
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).mean())


def bgrx(rgb: NDArray[np.uint8], last: int) -> list[bytes]:
    image = np.dstack([rgb[:, :, ::-1], np.full((HEIGHT, WIDTH), last, np.uint8)])
    return [row.tobytes() for row in image[::-1]]


MASKS_32 = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)


@pytest.mark.parametrize(("compression", "masks", "version"), [(0, b"", 40), (3, MASKS_32, 40), (3, MASKS_32, 124)])
@pytest.mark.parametrize("unused", [0, 255])
def test_a_32_bit_bmp_without_an_alpha_mask_is_opaque(
    rgb: NDArray[np.uint8], compression: int, masks: bytes, version: int, unused: int
) -> None:
    data = bmp(bgrx(rgb, unused), 32, compression=compression, masks=masks, version=version)
    assert difference(data, rgb) == 0


def test_a_bmp_whose_alpha_is_nowhere_set_is_opaque(rgb: NDArray[np.uint8]) -> None:
    masks = MASKS_32 + struct.pack("<I", 0xFF000000)
    assert difference(bmp(bgrx(rgb, 0), 32, compression=3, masks=masks, version=124), rgb) == 0
    assert difference(bmp(bgrx(rgb, 128), 32, compression=3, masks=masks, version=124)) == 0


@pytest.mark.parametrize("version", [40, 108, 124])
@pytest.mark.parametrize(
    ("shifts", "masks"), [((11, 5, 0, 6), _MASKS_565), ((10, 5, 0, 5), struct.pack("<III", 0x7C00, 0x3E0, 0x1F))]
)
def test_bmps_of_16_bits_are_read(
    rgb: NDArray[np.uint8], version: int, shifts: tuple[int, int, int, int], masks: bytes
) -> None:
    red, green, blue, green_bits = shifts
    image = rgb.astype(np.uint16)
    words = image[:, :, 0] >> 3 << red | image[:, :, 1] >> (8 - green_bits) << green | image[:, :, 2] >> 3 << blue
    data = bmp([row.astype("<u2").tobytes() for row in words[::-1]], 16, compression=3, masks=masks, version=version)
    assert difference(data) == 0
    assert difference(data, rgb) < 5


@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize(
    ("bits", "fields", "version", "compression"),
    [
        (32, ((20, 10), (10, 10), (0, 10)), 40, 3),
        (32, ((0, 8), (8, 8), (16, 8)), 40, 3),
        (32, ((24, 8), (16, 8), (8, 8)), 52, 3),
        (32, ((22, 10), (12, 10), (2, 10)), 124, 3),
        (32, ((0, 8), (8, 8), (16, 8), (24, 8)), 40, 6),
        (32, ((16, 8), (8, 8), (0, 8), (24, 8)), 108, 3),
        (16, ((8, 4), (4, 4), (0, 4)), 40, 3),
        (16, ((8, 4), (4, 4), (0, 4), (12, 4)), 56, 3),
        (16, ((0, 5), (5, 6), (11, 5)), 108, 3),
    ],
)
def test_a_bmp_may_have_any_masks(
    rgb: NDArray[np.uint8], bits: int, fields: tuple[tuple[int, int], ...], version: int, compression: int, down: bool
) -> None:
    """Channels in other orders and widths than Pillow reads; a pixel is laid over white by its alpha."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:7] = 0
    words = np.zeros((HEIGHT, WIDTH), np.uint64)
    for channel, (shift, width) in zip([*np.moveaxis(rgb, 2, 0), alpha], fields, strict=False):
        words |= (channel.astype(np.uint64) * ((1 << width) - 1) // 255) << np.uint64(shift)
    rows = [row.astype(f"<u{bits // 8}").tobytes() for row in (words if down else words[::-1])]
    masks = struct.pack(f"<{len(fields)}I", *(((1 << width) - 1) << shift for shift, width in fields))
    wanted = rgb.copy()
    if len(fields) == 4:
        wanted[:7] = 255
    data = bmp(rows, bits, compression=compression, masks=masks, version=version, down=down)
    assert difference(data, wanted) < (1 if bits == 32 else 9)
    with pytest.raises(InputError, match="damaged or truncated"):
        load_image(data[:-8])


@pytest.mark.parametrize("mask", [0, 0xFF00FF])
def test_masks_with_a_gap_are_refused(rgb: NDArray[np.uint8], mask: int) -> None:
    data = bmp(bgrx(rgb, 0), 32, compression=3, masks=struct.pack("<III", mask, 0xFF00, 0xFF))
    with pytest.raises(InputError, match=f"a mask is {mask:#x}, expected bits in a row"):
        load_image(data)


def test_a_bmp_may_begin_with_its_top_row(rgb: NDArray[np.uint8]) -> None:
    rows = [row[:, ::-1].tobytes() for row in rgb]
    assert difference(bmp(rows, 24, down=True), rgb) == 0
    assert difference(bmp(bgrx(rgb[::-1], 0), 32, down=True), rgb) == 0


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmps_with_a_palette_are_read(bits: int) -> None:
    index = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) // 3 % (1 << min(bits, 4))).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (1 << bits, 3), dtype=np.uint8)
    palette = np.dstack([colours[None, :, ::-1], np.zeros((1, len(colours), 1), np.uint8)]).tobytes()
    spread = np.unpackbits(index[:, :, None], axis=2)[:, :, 8 - bits :].reshape(HEIGHT, -1)
    rows = [np.packbits(row).tobytes() for row in spread[::-1]]
    assert difference(bmp(rows, bits, palette=palette), colours[index]) == 0


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("stored_width", [WIDTH, WIDTH + 3])
def test_run_lengths_of_a_bmp_are_undone_in_every_row(bits: int, stored_width: int) -> None:
    """ImageMagick's rows are rounded up to a multiple of 4 pixels."""
    index = np.zeros((HEIGHT, WIDTH), np.uint8)
    index[::2, 3:30] = 5
    index[1::3, 20:] = 9
    colours = np.random.default_rng(0).integers(0, 256, (1 << bits, 3), dtype=np.uint8)
    palette = np.dstack([colours[None, :, ::-1], np.zeros((1, len(colours), 1), np.uint8)]).tobytes()
    rows = []
    for row in np.pad(index[::-1], ((0, 0), (0, stored_width - WIDTH))):
        line, at = b"", 0
        while at < stored_width:
            run = 1
            while at + run < stored_width and row[at + run] == row[at]:
                run += 1
            line += bytes([run, row[at] | row[at] << 4 if bits == 4 else row[at]])
            at += run
        rows.append(line + b"\0\0")
    rows[-1] = rows[-1][:-2] + b"\0\1"
    data = bmp(rows, bits, compression=1 if bits == 8 else 2, palette=palette)
    assert difference(data, colours[index]) == 0


def png(rows: NDArray[np.uint8], depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of packed rows [H, bytes]."""
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, len(rows), depth, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("alphas", [b"", b"\0", b"\x80\x40"])
def test_pngs_with_a_palette_and_clear_colours_are_laid_over_white(depth: int, alphas: bytes) -> None:
    index = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) // 2 % (1 << min(depth, 4))).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (1 << depth, 3), dtype=np.uint8)
    spread = np.unpackbits(index[:, :, None], axis=2)[:, :, 8 - depth :].reshape(HEIGHT, -1)
    chunks = [(b"PLTE", colours.tobytes()), *([(b"tRNS", alphas)] if alphas else [])]
    data = png(np.packbits(spread, axis=1), depth, 3, *chunks)
    assert difference(data) == 0
    if not alphas:
        assert difference(data, colours[index]) == 0


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pngs_of_16_bits_keep_their_upper_8(rgb: NDArray[np.uint8], channels: int) -> None:
    wide = np.dstack([rgb, rgb[:, :, :1]])[:, :, :channels].astype(">u2") << 8 | 0x35
    data = png(wide.astype(">u2").reshape(HEIGHT, -1).view(np.uint8), 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    if channels == 1:
        assert difference(data, np.repeat(rgb[:, :, :1], 3, axis=2)) == 0
    elif channels == 3:
        assert difference(data, rgb) == 0
    else:
        assert difference(data) <= 0.5


def test_one_grey_level_of_a_16_bit_png_may_be_clear(rgb: NDArray[np.uint8]) -> None:
    grey = rgb[:, :, 0].astype(">u2") << 8 | 0x35
    data = png(grey.astype(">u2").view(np.uint8), 16, 0, (b"tRNS", struct.pack(">H", int(grey[7, 9]))))
    found = load_image(data)
    assert (found[grey == grey[7, 9]] == 255).all()
    assert (found[:, :, 0][grey != grey[7, 9]] == rgb[:, :, 0][grey != grey[7, 9]]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "GIF", "JPEG"])
def test_every_mode_of_every_format_looks_as_in_pillow(rgb: NDArray[np.uint8], mode: str, form: str) -> None:
    image = Image.fromarray(rgb)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(rgb[:, :, 1]))
    try:
        data = encode(image.convert(mode), form)
    except (OSError, ValueError):
        pytest.skip(f"no {form} of mode {mode}")
    assert difference(data) == 0


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_tiffs_of_every_compression_look_as_in_pillow(rgb: NDArray[np.uint8], compression: str) -> None:
    assert difference(encode(Image.fromarray(rgb), "TIFF", compression=compression)) == 0


def test_a_cmyk_jpeg_is_not_a_negative(rgb: NDArray[np.uint8]) -> None:
    data = encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert difference(data) == 0
    assert difference(data, rgb) < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_of_every_format_is_turned_upright(
    rgb: NDArray[np.uint8], orientation: int, form: str
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(Image.fromarray(rgb), form, exif=exif, **options)
    assert difference(data) == 0
    if form != "JPEG" and orientation in (3, 6, 8):
        turned = {3: np.rot90(rgb, 2), 6: np.rot90(rgb, 3), 8: np.rot90(rgb, 1)}[orientation]
        assert difference(data, turned) == 0


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_picture_of_several_is_seen(rgb: NDArray[np.uint8], form: str) -> None:
    first = Image.fromarray(rgb).quantize(64).convert("RGB")
    others = [Image.new("RGB", first.size, colour) for colour in ("black", "white")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(first, form, save_all=True, append_images=others, **options)
    assert difference(data, np.asarray(first)) < 0.5


@pytest.mark.parametrize("level", [0, 7])
def test_interlaced_and_progressive_pictures_are_read(rgb: NDArray[np.uint8], level: int) -> None:
    assert difference(encode(Image.fromarray(rgb), "JPEG", progressive=True)) == 0
    assert difference(encode(Image.fromarray(rgb).quantize(32), "GIF", interlace=level > 0)) == 0


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_cut_pictures_are_refused(rgb: NDArray[np.uint8], keep: float) -> None:
    files = [bmp(bgrx(rgb, 0), 32), encode(Image.fromarray(rgb), "TIFF"), encode(Image.fromarray(rgb), "AVIF")]
    files += [encode(Image.fromarray(rgb).quantize(64), "GIF")]
    for data in files:
        with pytest.raises(InputError, match=r"truncated|ends inside its header"):
            load_image(data[: int(len(data) * keep)])


def test_what_pillow_notes_about_odd_files_is_not_written_to_standard_error(rgb: NDArray[np.uint8]) -> None:
    """In a process of its own, because pytest gives the logging module a handler."""
    data = bytearray(encode(Image.fromarray(rgb), "TIFF"))
    place = data.index(struct.pack("<HHI", 277, 3, 1))
    data[place + 8 : place + 12] = struct.pack("<I", 24620)
    code = (
        "import sys\n"
        "from palmtop.errors import InputError\n"
        "from palmtop.runtime.processor.images.image_file import load_image\n"
        "try:\n    load_image(sys.stdin.buffer.read())\nexcept InputError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=bytes(data), capture_output=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (b"refused", b"")
