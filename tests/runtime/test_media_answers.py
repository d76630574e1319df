"""The same picture or sound in an unusual file has the same, right answer."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from PIL import Image

import palmtop
from palmtop.runtime import reference
from palmtop.runtime.session import Session

SAMPLES = Path(reference.__file__).parent / "samples"
EXPECTED = {s["mode"]: s for s in json.loads((SAMPLES / "samples.json").read_text()) if s["mode"] in ("image", "audio")}


@pytest.fixture(scope="module")
def session(int4_bundle: Path) -> Iterator[Session]:
    with palmtop.load(int4_bundle, threads=1, context=1024) as found:
        yield found


def answer(session: Session, kind: str, data: bytes) -> str:
    content = [{"type": kind, kind: data}, {"type": "text", "text": EXPECTED[kind]["text"]}]
    return session.answer([{"role": "user", "content": content}]).text


def encoded(form: str, rate: int | None = None) -> bytes:
    samples, own = soundfile.read(SAMPLES / EXPECTED["audio"]["audio"], dtype="float32")
    if rate is not None:
        samples = soxr.resample(samples, own, rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate or own, format=form)
    return buffer.getvalue()


def piped_wav() -> bytes:
    data = encoded("WAV")
    return data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:]


def piped_flac() -> bytes:
    data = encoded("FLAC")
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


SOUNDS: dict[str, Callable[[], bytes]] = {
    "as packaged": lambda: encoded("WAV"),
    "WAV written to a pipe": piped_wav,
    "FLAC written to a pipe": piped_flac,
    "8 kHz": lambda: encoded("WAV", 8000),
    "11.025 kHz": lambda: encoded("WAV", 11025),
}


def bmp_without_alpha_mask() -> bytes:
    rgb = np.asarray(Image.open(SAMPLES / EXPECTED["image"]["image"]).convert("RGB"))
    pixels = np.dstack([rgb[::-1, :, ::-1], np.zeros(rgb.shape[:2], np.uint8)]).tobytes()
    height, width = rgb.shape[:2]
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    return b"BM" + struct.pack("<IHHI", 66 + len(pixels), 0, 0, 66) + header + masks + pixels


def saved(form: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.open(SAMPLES / EXPECTED["image"]["image"]).convert("RGB").convert(mode).save(buffer, form)
    return buffer.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "as packaged": lambda: (SAMPLES / EXPECTED["image"]["image"]).read_bytes(),
    "BMP without an alpha mask": bmp_without_alpha_mask,
    "CMYK JPEG": lambda: saved("JPEG", "CMYK"),
    "AVIF": lambda: saved("AVIF"),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_the_word_is_heard(session: Session, name: str) -> None:
    assert answer(session, "audio", SOUNDS[name]()) == EXPECTED["audio"]["expected"]


@pytest.mark.parametrize("name", PICTURES)
def test_the_number_is_seen(session: Session, name: str) -> None:
    assert answer(session, "image", PICTURES[name]()) == EXPECTED["image"]["expected"]
