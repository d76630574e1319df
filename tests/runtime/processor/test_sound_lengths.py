"""Sounds whose stated length is absent, too long or too short: what is there is heard, what is cut is refused."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.processor.sounds.mpeg import parse_frame
from palmtop.runtime.processor.sounds.sound_file import load_audio

RATE = 16000
SECONDS = 8.0
CHUNKED = ["WAV", "WAVEX", "AIFF", "AU", "W64", "CAF", "RF64"]


def speech_like(seconds: float = SECONDS, rate: int = RATE) -> NDArray[np.float32]:
    """Loud and quiet seconds, so that variable bitrates vary; what comes early is cheap to code."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * 300 * time) + 0.1 * noise * (time > seconds / 4)).astype(np.float32)


def encode(form: str, samples: NDArray[np.float32] | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, speech_like() if samples is None else samples, RATE, format=form, **options)
    return buffer.getvalue()


def heard(data: bytes) -> NDArray[np.float32]:
    return load_audio(data, RATE)


def with_number(data: bytes, mark: bytes, number: int, order: str, size: int = 4, skip: int = 4) -> bytes:
    """``data`` with another number ``skip`` bytes behind the start of a mark."""
    place = data.index(mark) + skip
    return data[:place] + number.to_bytes(size, order) + data[place + size :]  # type: ignore[arg-type]


def mp3_frames(data: bytes) -> list[bytes]:
    frames, at = [], 0
    while at + 4 <= len(data) and (frame := parse_frame(data[at : at + 4])) is not None:
        frames.append(data[at : at + frame.length])
        at += frame.length
    return frames


def mp3(samples: NDArray[np.float32] | None = None, mode: str = "VARIABLE") -> bytes:
    return encode("MP3", samples, bitrate_mode=mode, compression_level=0.4)


def without_header(data: bytes) -> bytes:
    frames = mp3_frames(data)
    assert b"Xing" in frames[0] or b"Info" in frames[0]
    return b"".join(frames[1:])


def flac_of_length(data: bytes, samples: int) -> bytes:
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    return data[:18] + packed.to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("number", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_is_heard_whole(number: int, riff: int) -> None:
    data = encode("WAV")
    piped = with_number(with_number(data, b"RIFF", riff, "little"), b"data", number, "little")
    np.testing.assert_array_equal(heard(piped), heard(data))


@pytest.mark.parametrize(
    ("form", "mark", "number", "order", "size", "skip"),
    [
        ("AU", b".snd", 0xFFFFFFFF, "big", 4, 8),
        ("AU", b".snd", 0, "big", 4, 8),
        ("AIFF", b"SSND", 0, "big", 4, 4),
        ("AIFF", b"SSND", 0x7F000008, "big", 4, 4),
        ("CAF", b"data", (1 << 64) - 1, "big", 8, 4),
        ("W64", b"data\xf3", (1 << 63) - 1, "little", 8, 16),
        ("W64", b"data\xf3", (1 << 64) - 1, "little", 8, 16),
        ("RF64", b"ds64", 0, "little", 24, 8),
    ],
)
def test_other_containers_written_to_a_pipe_are_heard_whole(
    form: str, mark: bytes, number: int, order: str, size: int, skip: int
) -> None:
    data = encode(form, subtype="PCM_16")
    piped = with_number(data, mark, number, order, size, skip)
    if form == "AIFF":
        piped = with_number(piped, b"COMM", 0x3F800000 if number else 0, "big", skip=10)
    assert piped != data
    assert np.abs(heard(piped) - speech_like()).max() < 1e-3


def test_a_flac_written_to_a_pipe_is_heard_whole() -> None:
    data = encode("FLAC")
    np.testing.assert_array_equal(heard(flac_of_length(data, 0)), heard(data))


@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE", "CONSTANT"])
def test_an_mp3_without_a_length_is_heard_whole(mode: str) -> None:
    data = without_header(mp3(mode=mode))
    assert abs(len(heard(data)) - SECONDS * RATE) < 0.15 * RATE
    assert np.abs(heard(data)[-RATE:]).max() > 0.2


def test_an_mp3_whose_loud_part_comes_first_is_not_refused() -> None:
    data = without_header(mp3(speech_like()[::-1]))
    assert abs(len(heard(data)) - SECONDS * RATE) < 0.15 * RATE


@pytest.mark.parametrize("joint", [b"", b"ID3\x04\0\0\0\0\x10\0" + bytes(2048), b"TAG" + bytes(125), bytes(100)])
@pytest.mark.parametrize("has_header", [True, False])
def test_joined_mp3s_are_heard_to_the_end_of_the_last(joint: bytes, has_header: bool) -> None:
    one = mp3() if has_header else without_header(mp3())
    samples = heard(one + joint + one)
    assert abs(len(samples) - 2 * SECONDS * RATE) < 0.3 * RATE
    assert np.abs(samples[-RATE:]).max() > 0.2


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_other_joined_sounds_are_heard_to_the_end_of_the_last(form: str) -> None:
    first, second = encode(form), encode(form, speech_like()[: 2 * RATE][::-1])
    np.testing.assert_array_equal(heard(first + second), np.concatenate([heard(first), heard(second)]))


def test_joined_sounds_of_other_rates_keep_their_pitch() -> None:
    buffer = io.BytesIO()
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(4 * 44100) / 44100)).astype(np.float32)
    soundfile.write(buffer, np.stack([tone, tone], axis=1), 44100, format="WAV")
    for first in (encode("WAV"), encode("WAV", speech_like()[:4000])):
        start = len(heard(first))
        samples = heard(first + buffer.getvalue() + first)
        assert abs(len(samples) - 2 * start - 4 * RATE) < 3
        assert np.abs(np.fft.rfft(samples[start + RATE : start + 3 * RATE])).argmax() == 880
        np.testing.assert_array_equal(samples[-start:], heard(first))


def test_the_length_of_a_healthy_mp3_is_that_of_its_encoder() -> None:
    assert len(heard(mp3())) == SECONDS * RATE
    tagged = b"ID3\x03\0\0\0\0\x10\0" + bytes(2048) + mp3() + b"TAG" + bytes(125)
    np.testing.assert_array_equal(heard(tagged), heard(mp3()))


@pytest.mark.parametrize(
    ("form", "mark", "size", "order"),
    [("WAV", b"data", 4, "little"), ("CAF", b"data", 8, "big"), ("AIFF", b"SSND", 4, "big")],
)
def test_a_stated_length_that_is_too_short_does_not_end_the_sound(
    form: str, mark: bytes, size: int, order: str
) -> None:
    data = encode(form, subtype="PCM_16")
    short = with_number(data, mark, RATE // 2, order, size)
    assert abs(len(heard(short)) - SECONDS * RATE) < 50
    assert np.abs(heard(short)[: 7 * RATE] - speech_like()[: 7 * RATE]).max() < 1e-3


def test_a_flac_that_states_too_little_is_heard_whole() -> None:
    data = encode("FLAC")
    np.testing.assert_array_equal(heard(flac_of_length(data, RATE)), heard(data))


@pytest.mark.parametrize("form", [*CHUNKED, "FLAC", "VOC", "AVR", "NIST", "SVX"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cut_sound_is_refused_with_both_lengths(form: str, share: float, tmp_path: Path) -> None:
    data = encode(form, subtype="PCM_16")
    path = tmp_path / "sound"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"the sound is truncated: ") as caught:
        load_audio(path, RATE)
    if form in (*CHUNKED, "FLAC"):
        words = str(caught.value).split()
        found, stated = float(words[words.index("after") + 1]), float(words[words.index("expected") + 1])
        assert abs(found - SECONDS * share) < {"FLAC": 1.5, "CAF": 0.2}.get(form, 0.1)
        assert stated == pytest.approx(SECONDS, abs=0.02)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_a_cut_mp3_that_states_its_length_is_refused_with_both(mode: str) -> None:
    data = mp3(mode=mode)
    with pytest.raises(InputError, match=r"truncated: it ends after [2-6]\.\d\d s, expected 8\.\d\d s"):
        heard(data[: len(data) // 2])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_cut_ogg_is_refused(subtype: str) -> None:
    data = encode("OGG", subtype=subtype)
    last_page = data.rindex(b"OggS")
    for cut in (data[: len(data) // 2], data[: last_page + 30], data[:last_page]):
        with pytest.raises(InputError, match=r"the sound is truncated: the file ends .* after \d+\.\d\d s"):
            heard(cut)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cut_flac_that_states_no_length_is_refused(share: float) -> None:
    data = flac_of_length(encode("FLAC"), 0)
    tagged = data + b"TAG" + bytes(125)
    np.testing.assert_array_equal(heard(tagged), heard(data))
    for cut in (data[: int(len(data) * share)], data + data[: int(len(data) * share)]):
        with pytest.raises(InputError, match=r"the sound is truncated: the file ends in the middle of a frame, after "):
            heard(cut)


def test_a_few_missing_bytes_are_no_loss() -> None:
    for form in ("WAV", "AIFF", "AU"):
        data = encode(form, subtype="PCM_16")
        assert len(heard(data[:-1000])) >= (SECONDS - 0.1) * RATE


def chunk(kind: bytes, body: bytes, pad: bool = True) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2 if pad else 0)


@pytest.mark.parametrize("pad", [True, False])
def test_odd_chunks_are_passed_over_with_and_without_their_padding(pad: bool) -> None:
    samples = (127 + 100 * speech_like()[: RATE + 1]).astype(np.uint8)
    format_chunk = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, RATE, 1, 8))
    before, after = chunk(b"LIST", b"INFOodd", pad), chunk(b"LIST", b"INFO behind")
    body = b"WAVE" + format_chunk + before + chunk(b"data", samples.tobytes(), pad) + after
    found = heard(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert len(found) == RATE + 1
    np.testing.assert_allclose(found, (samples.astype(np.float32) - 128) / 128, atol=1e-6)


def test_metadata_behind_the_samples_is_not_heard() -> None:
    data = encode("WAV")
    for tail in (chunk(b"LIST", b"INFO" + bytes(2000)), chunk(b"id3 ", b"x" * 999), chunk(b"bext", b"y" * 4000)[:300]):
        np.testing.assert_array_equal(heard(data + tail), heard(data))


def test_a_wav_of_no_samples_stays_empty() -> None:
    empty = encode("WAV", speech_like()[:0])
    for data in (empty, empty + chunk(b"LIST", b"INFO" + bytes(2000))):
        with pytest.raises(InputError, match=r"lasts 0\.0 ms"):
            heard(data)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "PCM_24", "DOUBLE"])
def test_every_coding_of_a_wav_can_be_cut_and_piped(subtype: str) -> None:
    data = encode("WAV", subtype=subtype)
    piped = with_number(data, b"data", 0xFFFFFFFF, "little")
    assert len(heard(piped)) >= SECONDS * RATE
    with pytest.raises(InputError, match=r"truncated: it ends after [34]\.\d\d s, expected [78]\.\d\d s"):
        heard(data[: len(data) // 2])


def many(unit: bytes, size: int = 1 << 20) -> bytes:
    return unit * (size // len(unit))


@pytest.mark.parametrize(
    "make",
    [
        lambda: many(b"\xff\xfb\x90\x64"),
        lambda: many(b"\xff\xfb\x10\x00" + b"\xff\xf3\x10\xc4"),
        lambda: encode("WAV") + many(b"LISA\0\0\0\0"),
        lambda: many(b"OggS\0\2" + bytes(21)),
        lambda: encode("FLAC")[:42] + many(b"\xff\xf8\xc9\x08\0\0"),
        lambda: many(b"fLaC\0\0\0\x22" + bytes(34)),
        lambda: many(encode("WAV", speech_like()[:400])),
    ],
)
def test_files_made_to_be_slow_to_walk_are_soon_over(make: Callable[[], bytes]) -> None:
    """No time limit here: what is bounded is the number of resynchronisations, chunks and joined sounds."""
    with contextlib.suppress(InputError):
        heard(make())


def test_libmpg123_does_not_write_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    good = mp3()
    random = np.random.default_rng(1)
    for _ in range(20):
        data = bytearray(good)
        for place in random.integers(0, len(data), 40):
            data[place] = random.integers(256)
        try:
            heard(bytes(data))
        except InputError:
            continue
    assert capfd.readouterr().err == ""
