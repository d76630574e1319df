from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

from palmtop.errors import InputError
from palmtop.runtime.processor.images.dynamic_hd import load_image
from palmtop.runtime.processor.images.image_header import read_header


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def reference(data: bytes) -> NDArray[np.uint8]:
    """How transformers shows a file to its image processor."""
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(convert_to_rgb(upright, return_numpy=True))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg")[100:220, 200:360])


def variants(picture: Image.Image) -> dict[str, bytes]:
    clear = picture.copy()
    clear.putalpha(picture.convert("L"))
    palette = picture.quantize(32)
    grey = picture.convert("L")
    return {
        "png": encode(picture, "PNG"),
        "png alpha": encode(clear, "PNG"),
        "png grey alpha": encode(clear.convert("LA"), "PNG"),
        "png palette": encode(palette, "PNG"),
        "png palette with a clear colour": encode(palette, "PNG", transparency=3),
        "png grey": encode(grey, "PNG"),
        "png grey with a clear level": encode(grey, "PNG", transparency=100),
        "png 1 bit": encode(picture.convert("1"), "PNG"),
        "jpeg": encode(picture, "JPEG", quality=90),
        "jpeg 4:2:0": encode(picture, "JPEG", quality=75, subsampling=2),
        "jpeg progressive": encode(picture, "JPEG", progressive=True),
        "jpeg grey": encode(grey, "JPEG"),
        "gif": encode(picture, "GIF"),
        "gif with a clear colour": encode(palette, "GIF", transparency=3),
        "bmp": encode(picture, "BMP"),
        "bmp palette": encode(palette, "BMP"),
        "webp": encode(picture, "WEBP"),
        "webp lossless": encode(picture, "WEBP", lossless=True),
        "webp alpha": encode(clear, "WEBP", lossless=True),
        "tiff": encode(picture, "TIFF"),
        "tiff lzw": encode(picture, "TIFF", compression="tiff_lzw"),
    }


def test_every_format_looks_as_in_transformers(picture: Image.Image) -> None:
    for name, data in variants(picture).items():
        np.testing.assert_array_equal(load_image(data), reference(data), err_msg=name)


def test_real_files_look_as_in_transformers(image_files: list[Path]) -> None:
    for file in image_files:
        np.testing.assert_array_equal(load_image(file), reference(file.read_bytes()), err_msg=file.name)


def test_cmyk_and_clear_tiff_are_within_a_level_of_pillow(picture: Image.Image) -> None:
    clear = picture.copy()
    clear.putalpha(picture.convert("L"))
    for data in (encode(picture.convert("CMYK"), "JPEG"), encode(clear, "TIFF")):
        check_within_a_level(data)


def check_within_a_level(data: bytes) -> None:
    assert np.abs(load_image(data).astype(int) - reference(data)).max() <= 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(form: str, orientation: int, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(picture, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(load_image(data), reference(data))


def test_exif_orientation_is_honoured_with_alpha(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[274] = 6
    clear = picture.copy()
    clear.putalpha(90)
    data = encode(clear, "PNG", exif=exif)
    assert load_image(data).shape == (160, 120, 3)
    np.testing.assert_array_equal(load_image(data), reference(data))


def test_sixteen_bits_keep_the_upper_eight(picture: Image.Image) -> None:
    import cv2

    rgb = np.asarray(picture)
    wide = rgb.astype(np.uint16) * 256 + 77
    data = cv2.imencode(".png", wide[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(load_image(data), rgb)
    grey = cv2.imencode(".png", wide[:, :, 0])[1].tobytes()
    np.testing.assert_array_equal(load_image(grey)[:, :, 2], rgb[:, :, 0])


def test_paths_bytes_and_pixels_are_the_same(picture: Image.Image, tmp_path: Path) -> None:
    data = encode(picture, "PNG")
    file = tmp_path / "söme pïcture.png"
    file.write_bytes(data)
    for source in (file, str(file), data, np.asarray(picture)):
        np.testing.assert_array_equal(load_image(source), np.asarray(picture))


def test_grey_and_rgba_pixels_are_taken() -> None:
    grey = np.array([[10, 20]], np.uint8)
    assert load_image(grey).tolist() == [[[10] * 3, [20] * 3]]
    rgba = np.array([[[0, 0, 0, 0], [1, 2, 3, 255]]], np.uint8)
    assert load_image(rgba).tolist() == [[[255, 255, 255], [1, 2, 3]]]


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.98])
def test_a_truncated_file_is_refused(keep: float, picture: Image.Image) -> None:
    for name, data in variants(picture).items():
        with pytest.raises(InputError, match=r"image of [0-9]+ bytes"):
            load_image(data[: int(len(data) * keep)])
            pytest.fail(name)


def test_a_jpeg_without_its_end_is_refused(picture: Image.Image) -> None:
    data = encode(picture, "JPEG").removesuffix(b"\xff\xd9")
    with pytest.raises(InputError, match=r"the JPEG file is truncated: found [0-9]+ bytes without an end marker"):
        load_image(data)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.png: No such file or directory, expected a PNG, JPEG"):
        load_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "found an empty file"), (b"just some text\n", "15 bytes that begin with b'just som'")],
)
def test_what_is_not_a_picture_is_refused(content: bytes, found: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"notes\.png: .*{found}, expected a PNG, JPEG, WebP"):
        load_image(file)


def test_a_small_file_with_a_huge_picture_is_refused_before_decoding() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(InputError, match=r"found a PNG of 100000 x 100000 pixels, expected at most 134217728"):
        load_image(data)


@pytest.mark.parametrize(
    "pixels", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_impossible_pixels_are_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"the pixels are .*expected"):
        load_image(pixels)


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM", b"II*\0"]
    ),
    rest=st.binary(max_size=200),
)
def test_arbitrary_bytes_are_refused_in_one_sentence(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(InputError):
        load_image(start + rest)


def test_damaged_files_are_refused_or_shown(picture: Image.Image) -> None:
    random = np.random.default_rng(0)
    for data in variants(picture).values():
        for _ in range(20):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 8):
                damaged[place] ^= 1 << random.integers(0, 8)
            with contextlib.suppress(InputError):
                assert load_image(bytes(damaged)).shape[2] == 3


def test_headers_tell_the_size_of_real_files(image_files: list[Path]) -> None:
    for file in image_files:
        header = read_header(file.read_bytes(), file.name)
        with Image.open(file) as image:
            assert (header.width, header.height) == image.size
