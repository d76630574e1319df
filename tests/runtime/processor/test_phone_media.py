"""What phones and browsers produce: decoded with the extra ``media``, else one sentence says how."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from palmtop.errors import InputError
from palmtop.runtime.processor.images.image_file import load_image
from palmtop.runtime.processor.sounds.sound_file import load_audio

RATE = 16000


def tone(seconds: float = 4.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def media(container: str, codec: str, rate: int = 48000) -> bytes:
    av: Any = pytest.importorskip("av")
    stream = io.BytesIO()
    samples = np.repeat(tone(), rate // RATE)[None]
    with av.open(stream, "w", format=container) as output:
        track = output.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        fifo.write(av.AudioResampler(format=track.format.name, rate=rate, layout="mono").resample(frame)[0])
        size = track.codec_context.frame_size or 960
        while (part := fifo.read(size, partial=True)) is not None:
            output.mux(track.encode(part))
        output.mux(track.encode(None))
    return stream.getvalue()


KINDS = [("mp4", "aac"), ("ipod", "aac"), ("3gp", "aac"), ("webm", "libopus"), ("matroska", "flac"), ("adts", "aac")]
OLDER = [("avi", "pcm_s16le"), ("mpegts", "aac"), ("flv", "aac"), ("wv", "wavpack"), ("tta", "tta"), ("ac3", "ac3")]


@pytest.mark.parametrize(("container", "codec"), [*KINDS, *OLDER])
def test_sounds_of_phones_and_browsers_are_heard(container: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(media(container, codec))
    for source in (path, path.read_bytes()):
        samples = load_audio(source, RATE)
        assert abs(len(samples) - 4 * RATE) < 0.15 * RATE
        middle = samples[RATE : 3 * RATE]
        assert np.abs(np.fft.rfft(middle)).argmax() == pytest.approx(880, abs=2)
        assert np.abs(middle).max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("container", "codec"), KINDS[:5])
def test_cut_ones_are_refused(container: str, codec: str) -> None:
    data = media(container, codec)
    for share in (0.3, 0.7):
        with pytest.raises(InputError, match=r"truncated|cannot be decoded"):
            load_audio(data[: int(len(data) * share)], RATE)


@pytest.mark.parametrize("orientation", [1, 6])
def test_pictures_of_phones_are_seen_upright(orientation: int) -> None:
    heif: Any = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, 32:] = (250, 30, 20)
    exif = Image.Exif()
    exif[274] = orientation
    for form in ("HEIF", "AVIF"):
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, form, exif=exif, quality=95)
        # A HEIC turns itself (irot), and its EXIF says the same once more: that one is not to be followed.
        wanted = np.rot90(rgb, 3) if orientation == 6 and form == "AVIF" else rgb
        found = load_image(stream.getvalue())
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).mean() < 6
        with pytest.raises(InputError, match="damaged or truncated"):
            load_image(stream.getvalue()[: len(stream.getvalue()) * 2 // 3])


HEADS = {
    "M4A": b"\0\0\0\x20ftypM4A \0\0\0\0",
    "WebM": b"\x1a\x45\xdf\xa3",
    "AAC": b"\xff\xf1\x50\x80",
    "AMR": b"#!AMR\n",
}


@pytest.mark.parametrize("kind", HEADS)
def test_without_the_extra_one_sentence_says_how_sounds_are_heard(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "sound"
    path.write_bytes(HEADS[kind] + bytes(100))
    with pytest.raises(InputError, match=rf"sound: found an? .*{kind}.*pip install 'av>=[\d.]+'.*ffmpeg"):
        load_audio(path, RATE)


def test_without_the_extra_one_sentence_says_how_pictures_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"HEIC file, which needs pillow-heif: pip install 'pillow-heif>=[\d.]+', or"):
        load_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(InputError, match=r"AVIF file, which this build of Pillow does not read"):
        load_image(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(100))


def test_the_extra_is_loaded_only_when_it_is_needed() -> None:
    import subprocess

    code = (
        "import sys, numpy as np, io, soundfile; from PIL import Image\n"
        "from palmtop.runtime.processor.images.image_file import load_image\n"
        "from palmtop.runtime.processor.sounds.sound_file import load_audio\n"
        "b = io.BytesIO(); soundfile.write(b, np.zeros(9000), 16000, format='WAV'); load_audio(b.getvalue(), 16000)\n"
        "b = io.BytesIO(); Image.new('RGB', (9, 9)).save(b, 'PNG'); load_image(b.getvalue())\n"
        "assert not {'av', 'pillow_heif'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_long_is_named_by_its_beginning() -> None:
    """Base64 is passed for a path now and then."""
    text = "iVBORw0KGgo" * 3000
    for load in (load_image, lambda source: load_audio(source, RATE)):
        for source in (text, "a\0" + text):
            with pytest.raises(InputError, match=r"\.\.\. \(3300[02] characters\)|NUL") as caught:
                load(source)  # type: ignore[operator]
            assert len(str(caught.value)) < 250


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 31337\n"
TEXTS = {
    "a Git LFS pointer to a file of 31337 bytes": LFS,
    "a web page": b"\xef\xbb\xbf\n<!DOCTYPE html><html>",
    "base64": base64.b64encode(bytes(900)),
    "is base64": base64.encodebytes(bytes(range(256)) * 3),
    "the text of a data: address": b"data:audio/wav;base64,UklGRg==",
}


@pytest.mark.parametrize("what", TEXTS)
def test_text_that_stands_for_a_picture_or_a_sound_is_named(what: str, tmp_path: Path) -> None:
    path = tmp_path / "medium"
    path.write_bytes(TEXTS[what])
    for load in (load_image, lambda source: load_audio(source, RATE)):
        for source in (path, TEXTS[what]):
            with pytest.raises(InputError, match=rf"(medium|bytes): is {what.removeprefix('is ')}.*, expected "):
                load(source)  # type: ignore[operator]


def test_base64_given_as_a_path_is_told_where_it_goes() -> None:
    text = "iVBORw0KGgo" * 3000
    for load in (load_image, lambda source: load_audio(source, RATE)):
        with pytest.raises(InputError, match="base64 goes into a data: address"):
            load(text)  # type: ignore[operator]


def test_mutated_media_of_phones_is_refused_or_read(capfd: pytest.CaptureFixture[str]) -> None:
    files = [media("mp4", "aac"), media("webm", "libopus")]
    random = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(files[number % 2])
        for place in random.integers(0, len(data), 1 + number % 20):
            data[place] = random.integers(256)
        try:
            assert np.isfinite(load_audio(bytes(data), RATE)).all()
        except InputError as error:
            assert "\n" not in str(error)
    assert capfd.readouterr().err == ""
