from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.processor.sounds.log_mel import load_audio

RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encode(samples: NDArray[np.float32], rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "subtype", "error"),
    [
        ("WAV", "PCM_U8", 1 / 128),
        ("WAV", "PCM_16", 1 / 32768),
        ("WAV", "PCM_24", 1 / 2**23),
        ("WAV", "PCM_32", 1 / 2**24),
        ("WAV", "FLOAT", 0),
        ("FLAC", "PCM_24", 1 / 2**23),
        ("OGG", "VORBIS", 0.05),
        ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_every_format_gives_the_samples_back(form: str, subtype: str, error: float, tmp_path: Path) -> None:
    data = encode(tone(), RATE, form, subtype)
    file = tmp_path / "sound.bin"
    file.write_bytes(data)
    for source in (data, file, str(file)):
        samples = load_audio(source, RATE)
        assert samples.dtype == np.float32
        assert len(samples) == RATE
        np.testing.assert_allclose(samples, tone(), atol=error)


def test_channels_are_averaged() -> None:
    stereo = np.stack([tone(), -0.5 * tone()], axis=1)
    np.testing.assert_allclose(load_audio(encode(stereo, subtype="FLOAT"), RATE), 0.25 * tone(), atol=1e-7)
    np.testing.assert_allclose(load_audio((stereo, RATE), RATE), 0.25 * tone(), atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "scale", "middle"),
    [(np.int16, 2**15, 0), (np.int32, 2**31, 0), (np.uint8, 128, 128), (np.float64, 1, 0)],
)
def test_whole_numbers_are_scaled_by_their_range(dtype: type, scale: float, middle: float) -> None:
    samples: NDArray[np.generic] = (tone() * scale + middle).astype(dtype)
    np.testing.assert_allclose(load_audio((samples, RATE), RATE), tone(), atol=1.01 / scale)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_every_rate_keeps_pitch_and_length(rate: int) -> None:
    samples = load_audio((tone(1.0, rate), rate), RATE)
    assert abs(len(samples) - RATE) <= 1
    assert np.argmax(np.abs(np.fft.rfft(samples[:RATE]))) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("content", [b"", b"I am not a sound.\n" * 50, b"RIFF\0\0\0\0WAVEfmt ", b"ID3"])
def test_what_is_not_a_sound_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"speech\.wav: .*expected a WAV, FLAC, Ogg or MP3 file"):
        load_audio(file, RATE)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.wav: No such file or directory"):
        load_audio(tmp_path / "nowhere.wav", RATE)


@pytest.mark.parametrize(("length", "words"), [(0, "lasts 0.0 ms"), (1, "lasts 0.1 ms"), (319, "lasts 19.9 ms")])
def test_less_than_twenty_milliseconds_are_refused(length: int, words: str) -> None:
    for source in ((tone()[:length], RATE), encode(tone()[:length])):
        with pytest.raises(InputError, match=f"{words}, expected at least 20 ms"):
            load_audio(source, RATE)
    assert len(load_audio((tone()[:320], RATE), RATE)) == 320


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(value: float) -> None:
    samples = tone()
    samples[8000] = value
    for source in ((samples, RATE), encode(samples, subtype="FLOAT")):
        with pytest.raises(InputError, match=r"sample 8000 \(0\.500 s\) is .*expected finite samples"):
            load_audio(source, RATE)


@pytest.mark.parametrize("form", ["FLAC", "MP3"])
def test_a_truncated_stream_is_refused(form: str) -> None:
    data = encode(tone(4.0), form=form)
    with pytest.raises(InputError):
        load_audio(data[: len(data) // 2], RATE)


@pytest.mark.parametrize("rate", [0, 1, 999, 10**6])
def test_impossible_rates_are_refused(rate: int) -> None:
    with pytest.raises(InputError, match=f"the rate is {rate} Hz, expected 1000 to 768000 Hz"):
        load_audio((tone(), rate), RATE)


def test_a_sound_that_would_fill_the_memory_is_refused() -> None:
    silence = np.broadcast_to(np.int16(0), (2**27 + 1,))
    with pytest.raises(InputError, match="the sound lasts 8389 s at 16000 Hz, expected at most 8389 s"):
        load_audio((silence, RATE), RATE)


@pytest.mark.parametrize("samples", [np.zeros((3, 2, 2), np.float32), np.array(["a"] * 999), np.zeros((999, 0))])
def test_impossible_arrays_are_refused(samples: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match=r"the samples are .*expected"):
        load_audio((samples, RATE), RATE)
