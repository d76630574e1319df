from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import AudioSpec
from palmtop.runtime.processor.sounds.log_mel import (
    feature_rows,
    load_audio,
    log_mel,
    log_mel_blocks,
    mel_filters,
    sound_log_mel,
)

TOLERANCE = 1e-4
"""Natural log units; float32 sums in another order give 2e-6."""
Reference = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], int]]


@pytest.fixture(scope="module")
def reference() -> Reference:
    from transformers.models.phi4_multimodal.feature_extraction_phi4_multimodal import (
        Phi4MultimodalFeatureExtractor,
    )

    extractor = Phi4MultimodalFeatureExtractor()

    def run(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        batch = extractor(samples, sampling_rate=16000, return_tensors="np")
        return np.asarray(batch["audio_input_features"][0]), int(batch["audio_embed_sizes"][0])

    return run


def check(samples: NDArray[np.float32], spec: AudioSpec, reference: Reference) -> None:
    ours, (theirs, rows) = log_mel(samples, spec), reference(samples)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= TOLERANCE
    assert feature_rows(len(ours), spec) == rows


def chirp(seconds: float, rate: int) -> NDArray[np.float32]:
    """A rising tone with noise: 60 Hz to 7 kHz, so that every mel band is used."""
    time = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (60 * time + (min(7000, rate * 0.45) - 60) / (2 * seconds) * time**2))
    return (0.4 * tone + np.random.default_rng(0).normal(0, 0.01, len(time))).astype(np.float32)


def test_recorded_speech_is_heard_as_by_transformers(
    sound_files: list[Path], audio_spec: AudioSpec, reference: Reference
) -> None:
    if not sound_files:
        pytest.skip("no recordings: apt-get install pocketsphinx-testdata alsa-utils")
    for file in sound_files:
        check(load_audio(file, audio_spec.rate_hz), audio_spec, reference)


def test_raw_recordings_are_heard_as_by_transformers(audio_spec: AudioSpec, reference: Reference) -> None:
    files = sorted(Path("/usr/share/pocketsphinx/test/data").glob("*.raw"))
    if not files:
        pytest.skip("no recordings: apt-get install pocketsphinx-testdata")
    for file in files:
        check(load_audio((np.fromfile(file, "<i2"), 16000), audio_spec.rate_hz), audio_spec, reference)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize(
    ("form", "subtype", "channels"),
    [
        ("WAV", "PCM_U8", 1),
        ("WAV", "PCM_16", 2),
        ("WAV", "PCM_24", 2),
        ("WAV", "FLOAT", 1),
        ("FLAC", "PCM_16", 3),
    ],
)
def test_every_rate_and_sample_format_is_heard_as_by_librosa_and_transformers(
    rate: int,
    form: str,
    subtype: str,
    channels: int,
    tmp_path: Path,
    sound_files: list[Path],
    audio_spec: AudioSpec,
    reference: Reference,
) -> None:
    import librosa
    import soundfile

    mono = librosa.load(sound_files[0], sr=rate)[0] if sound_files else chirp(1.5, rate)
    samples = np.stack([mono * (1 - 0.3 * channel) for channel in range(channels)], axis=1)
    file = tmp_path / f"sound.{form.lower()}"
    soundfile.write(file, samples, rate, subtype=subtype, format=form)
    ours = load_audio(file, audio_spec.rate_hz)
    np.testing.assert_allclose(ours, librosa.load(file, sr=audio_spec.rate_hz)[0], atol=1e-6)
    check(ours, audio_spec, reference)


@pytest.mark.parametrize("seconds", [39, 40, 41, 300])
def test_long_sounds_are_heard_as_by_transformers(
    seconds: int, sound_files: list[Path], audio_spec: AudioSpec, reference: Reference
) -> None:
    if sound_files:
        whole = np.concatenate([load_audio(file, audio_spec.rate_hz) for file in sound_files])
        samples = np.tile(whole, 1 + seconds * audio_spec.rate_hz // len(whole))[: seconds * audio_spec.rate_hz]
    else:
        samples = chirp(seconds, audio_spec.rate_hz)
    check(samples, audio_spec, reference)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(400, 6000),
    loudness=st.sampled_from([0.0, 1e-6, 1e-3, 0.5, 1.0, 4.0]),
    seed=st.integers(0, 99),
)
def test_any_length_and_loudness_is_heard_as_by_transformers(
    length: int, loudness: float, seed: int, audio_spec: AudioSpec, reference: Reference
) -> None:
    samples = np.random.default_rng(seed).normal(0, loudness, length).astype(np.float32)
    check(samples, audio_spec, reference)


def test_the_comparison_would_notice_other_preemphasis(audio_spec: AudioSpec, reference: Reference) -> None:
    with pytest.raises(AssertionError):
        check(chirp(1, 16000), replace(audio_spec, preemphasis=0.96), reference)


def test_blocks_are_the_whole(audio_spec: AudioSpec) -> None:
    samples = chirp(45, 16000)
    blocks = list(log_mel_blocks(samples, audio_spec))
    assert [len(block) for block in blocks] == [2048, 2048, 402]
    np.testing.assert_array_equal(np.concatenate(blocks), log_mel(samples, audio_spec))


def test_half_an_hour_stays_within_a_hundred_megabytes(audio_spec: AudioSpec) -> None:
    samples = np.zeros(30 * 60 * 16000, np.float32)
    tracemalloc.start()
    frames = sum(len(block) for block in log_mel_blocks(samples, audio_spec))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames == (len(samples) - 400) // 160 + 1
    assert peak < 100e6


def test_filters_are_those_of_transformers_for_other_sizes_too(audio_spec: AudioSpec) -> None:
    from transformers.audio_utils import mel_filter_bank

    spec = replace(audio_spec, n_fft=400, n_mels=64, mel_min_hz=20.0, mel_max_hz=4000.0, rate_hz=8000)
    theirs = mel_filter_bank(201, 64, 20.0, 4000.0, 8000, triangularize_in_mel_space=True, mel_scale="kaldi")
    np.testing.assert_allclose(mel_filters(spec), theirs, atol=1e-6)


@pytest.mark.parametrize(("frames", "rows"), [(1, 1), (8, 1), (9, 2), (16, 2), (17, 3), (24, 3), (25, 4)])
def test_rows_round_up_twice(frames: int, rows: int, audio_spec: AudioSpec) -> None:
    assert feature_rows(frames, audio_spec) == rows
    assert feature_rows(frames, replace(audio_spec, downsample_rate=2)) == (rows + 1) // 2


def test_less_than_a_frame_is_refused(audio_spec: AudioSpec) -> None:
    with pytest.raises(InputError, match="the sound has 399 samples, expected at least one frame of 400"):
        log_mel(np.zeros(399, np.float32), audio_spec)
    assert log_mel(np.zeros(400, np.float32), audio_spec).shape == (1, 80)


def upstream_features(samples: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float64]:
    """What processing_phi4mm.py computes of 8 kHz: float32 frames of 200, then float64; 128 bins, 129 of zeros."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(257, 80, 0, 7690, 16000, triangularize_in_mel_space=True, mel_scale="kaldi")
    rows = []
    for start in range(0, len(samples) - 199, 80):
        frame = samples[start : start + 200]
        sharp = np.float32(32768) * (frame - np.float32(0.97) * np.concatenate([frame[:1], frame[:-1]]))
        window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(200) / 199)
        power = np.abs(np.fft.fft(window * sharp, 256)[:128]) ** 2
        rows.append(np.log(np.maximum(np.concatenate([power, np.zeros(129)]) @ filters, 1)))
    return np.array(rows)


@pytest.mark.parametrize("seconds", [0.025, 1.0, 41.0])
def test_sounds_of_8_khz_have_the_features_of_upstream(seconds: float, audio_spec: AudioSpec) -> None:
    samples = chirp(seconds, 8000)
    found = sound_log_mel((samples, 8000), audio_spec)
    expected = upstream_features(samples, audio_spec)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < TOLERANCE
    assert (found[:, 63:] == 0).all()
    assert (found[:, :55] > 3).any()


@pytest.mark.parametrize("rate", [6000, 11025, 12000, 15999])
def test_rates_below_that_of_the_model_are_heard_at_8_khz_at_their_own_speed(rate: int, audio_spec: AudioSpec) -> None:
    samples = chirp(2.0, rate)
    found = sound_log_mel((samples, rate), audio_spec)
    assert (found[:, 63:] == 0).all()
    np.testing.assert_array_equal(found, log_mel(load_audio((samples, rate), 8000), audio_spec, rate_hz=8000))
    assert abs(len(found) - 198) <= 1


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
def test_other_rates_are_heard_at_16_khz_at_their_own_speed(rate: int, audio_spec: AudioSpec) -> None:
    samples = chirp(2.0, rate)
    found = sound_log_mel((samples, rate), audio_spec)
    np.testing.assert_array_equal(found, log_mel(load_audio((samples, rate), 16000), audio_spec))
    assert len(found) == 198
    assert (found[:, 63:] > 0).any()


def test_a_model_whose_frames_cannot_be_halved_hears_every_rate_at_its_own(audio_spec: AudioSpec) -> None:
    odd = replace(audio_spec, win_length=401)
    samples = chirp(1.0, 8000)
    expected = log_mel(load_audio((samples, 8000), 16000), odd)
    np.testing.assert_array_equal(sound_log_mel((samples, 8000), odd), expected)
    with pytest.raises(InputError, match="the samples are at 8000 Hz, expected 16000 Hz"):
        log_mel(samples, odd, rate_hz=8000)
