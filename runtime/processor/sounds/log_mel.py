"""Log-mel features of samples in kaldi's manner, and the number of frames for the encoder.

Follows Phi4MultimodalFeatureExtractor of transformers 5.23: pre-emphasis inside every frame, a symmetric
Hamming window, the power spectrum, triangles that are straight on the mel scale, log with a floor of 1.
Sounds below the model's rate follow upstream's processing_phi4mm.py, which transformers' port left out: they are
framed at half the rate (8 kHz), and everything above its Nyquist frequency is zero. Upstream divides other rates
by a whole number alone, which changes their speed (11.025 kHz is read as 8 kHz; 44.1 kHz is thinned to 22.05 kHz and
read as 16 kHz), and refuses rates below 8 kHz; here all are resampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import AudioSpec
from palmtop.runtime.bundle.targets import HIDDEN
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.content_key import content_key
from palmtop.runtime.processor.prompt import Segment

from .audio_windows import audio_windows
from .sound_file import load_audio, read_sound, resample

__all__ = ["count_frames", "feature_rows", "load_audio", "log_mel", "log_mel_blocks", "mel_filters", "sound_log_mel"]

BLOCK_FRAMES = 2048
"""Frames at a time: their float64 spectra take 40 MB at most."""
FULL_SCALE = np.float32(32768)
"""Factor from -1..1 to 16-bit samples, for which the features were made."""


def sound_log_mel(
    source: str | Path | bytes | tuple[NDArray[Any], int], spec: AudioSpec, between: Between = go_on
) -> NDArray[np.float32]:
    """Return the features of a sound of any rate.

    Args:
        source: source for ``load_audio``.
        spec: frame and filter sizes.
        between: called between two steps of the work; may raise to stop it.

    Returns:
        The features, [T, n_mels] float32.

    Raises:
        InputError: the sound cannot be read or used, or is shorter than one frame.
    """
    samples, rate = read_sound(source, spec.rate_hz, between)
    half = half_rate(spec)
    wanted = spec.rate_hz if half is None or rate >= spec.rate_hz else half.rate_hz
    return log_mel(resample(samples, rate, wanted, between), spec, between, rate_hz=wanted)


@dataclass(frozen=True, slots=True, eq=False)
class LogMel:
    """Log-mel frames of a sound: the ``PreparedSound`` of this kind.

    Attributes:
        frames: [T, n_mels] float32.
        spec: sizes of frames and windows.
    """

    frames: NDArray[np.float32]
    spec: AudioSpec

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All rows together, without text between them."""
        return (self.rows,)

    @property
    def key(self) -> str:
        """Hash of the frames."""
        return content_key("audio", self.frames)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Name of the graph's output."""
        return ("audio_features",)

    @property
    def rows(self) -> int:
        """Number of feature rows."""
        return feature_rows(len(self.frames), self.spec)

    def check(self, spec: AudioSpec) -> None:
        """Refuse frames of another shape than the manifest's.

        Raises:
            InputError: names found and expected shapes.
        """
        shape = self.frames.shape
        if len(shape) != 2 or shape[1] != spec.n_mels or not shape[0]:
            raise InputError(f"log-mel frames are {list(shape)}, expected [T, {spec.n_mels}] with T from 1 on")
        if not np.isfinite(self.frames).all():
            raise InputError("log-mel frames hold a value that is not finite, expected numbers only")

    def batches(self, vision_projector: bool) -> Iterator[dict[str, NDArray[Any]]]:
        """Return the graph's inputs of every window."""
        for window in audio_windows(len(self.frames), self.spec):
            numbers = {
                "left_context": window.left_context,
                "window": window.fill_to,
                "projector": int(vision_projector),
            }
            feeds: dict[str, NDArray[Any]] = {"log_mel": self.frames[None, window.start : window.stop]}
            yield feeds | {name: np.array([value], np.int64) for name, value in numbers.items()}

    def in_reading_order(self, runs: Sequence[Sequence[NDArray[np.float32]]]) -> NDArray[np.float32]:
        """Return the rows of all windows, one window after the other."""
        return np.concatenate([run[0] for run in runs])


def prepare(source: Any, spec: AudioSpec, between: Between) -> LogMel:
    """This kind's ``prepare_sound``."""
    return LogMel(sound_log_mel(source, spec, between), spec)


def static_steps(window: Mapping[str, NDArray[Any]], spec: AudioSpec) -> int:
    """This kind's ``static_steps``: the steps that a window is padded to, or its own without its context."""
    return int(window["window"][0]) or _own_steps(window, spec)


def static_feeds(
    window: Mapping[str, NDArray[Any]], spec: AudioSpec, steps: int
) -> tuple[dict[str, NDArray[Any]], int]:
    """This kind's ``static_sound_feeds``: frames with room for the context, and masks of frames and of steps."""
    frames = window["log_mel"][0]
    rate = spec.compression_rate
    front = 0 if window["left_context"][0] else rate  # frames of context that this window lacks
    length = (steps + 1) * rate
    mel = np.zeros((1, length, frames.shape[1]), np.float32)
    mel[0, front : front + len(frames)] = frames
    mask = np.zeros((1, 1, length, 1), np.float32)
    mask[0, 0, front : front + len(frames)] = 1
    count = _own_steps(window, spec)
    bias = np.zeros((1, 1, 1, steps), np.float32)
    if not window["window"][0]:
        bias[..., count:] = HIDDEN  # a padded window attends to its zeros, as the reference does
    return {"log_mel": mel, "frame_mask": mask, "key_bias": bias}, -(-count // spec.downsample_rate)


def _own_steps(window: Mapping[str, NDArray[Any]], spec: AudioSpec) -> int:
    frames: int = window["log_mel"].shape[1]
    return -(-frames // spec.compression_rate) - int(window["left_context"][0])


def half_rate(spec: AudioSpec) -> AudioSpec | None:
    """Return the spec at half the rate; None if one of its lengths is odd."""
    sizes = (spec.rate_hz, spec.n_fft, spec.win_length, spec.hop_length)
    if any(size % 2 for size in sizes) or spec.n_fft % 4:
        return None
    rate, n_fft, win, hop = (size // 2 for size in sizes)
    return replace(spec, rate_hz=rate, n_fft=n_fft, win_length=win, hop_length=hop)


def log_mel(
    samples: NDArray[np.float32], spec: AudioSpec, between: Between = go_on, *, rate_hz: int | None = None
) -> NDArray[np.float32]:
    """Return the features of samples.

    Args:
        samples: [N] mono samples, -1..1, at ``rate_hz``.
        spec: frame and filter sizes.
        between: called between two blocks of frames.
        rate_hz: ``spec.rate_hz`` (default), or half of it: then the bands above are those of silence.

    Returns:
        The features, [T, n_mels], T = (N - win_length) // hop_length + 1; at half the rate both lengths are halved.

    Raises:
        InputError: the sound is shorter than one frame.
    """
    sizes = _sizes(spec, rate_hz)
    result = np.empty((count_frames(len(samples), sizes), spec.n_mels), np.float32)
    start = 0
    for block in log_mel_blocks(samples, spec, rate_hz=rate_hz):
        between()
        result[start : start + len(block)] = block
        start += len(block)
    return result


def log_mel_blocks(
    samples: NDArray[np.float32], spec: AudioSpec, *, rate_hz: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of ``log_mel`` in order, at most ``BLOCK_FRAMES`` at a time.

    Raises:
        InputError: the sound is shorter than one frame.
    """
    sizes = _sizes(spec, rate_hz)
    total = count_frames(len(samples), sizes)
    filters = mel_filters(spec)
    if sizes is not spec:
        filters = filters[: spec.n_fft // 4]  # its Nyquist frequency counts as above
    window = np.hamming(sizes.win_length)
    for first in range(0, total, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, total)
        piece = samples[first * sizes.hop_length : (last - 1) * sizes.hop_length + sizes.win_length]
        # [frames, win_length]
        frames = np.lib.stride_tricks.sliding_window_view(piece, sizes.win_length)[:: sizes.hop_length]
        # A frame's first sample has no predecessor: it is its own, as in kaldi.
        previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        sharp = (frames - np.float32(spec.preemphasis) * previous) * FULL_SCALE
        spectrum = np.fft.rfft(window * sharp, n=sizes.n_fft, axis=1)[:, : len(filters)]
        power = np.abs(spectrum).astype(np.float32) ** 2
        yield np.log(np.maximum(power @ filters, np.float32(1)))


def _sizes(spec: AudioSpec, rate_hz: int | None) -> AudioSpec:
    """Sizes of frames at the spec's rate or half of it."""
    if rate_hz is None or rate_hz == spec.rate_hz:
        return spec
    half = half_rate(spec)
    if half is None or half.rate_hz != rate_hz:
        raise InputError(f"the samples are at {rate_hz} Hz, expected {spec.rate_hz} Hz")
    return half


def count_frames(samples: int, spec: AudioSpec) -> int:
    """Return the number of frames of a sound of ``samples`` samples.

    Raises:
        InputError: the sound is shorter than one frame.
    """
    if samples < spec.win_length:
        raise InputError(f"the sound has {samples} samples, expected at least one frame of {spec.win_length}")
    return (samples - spec.win_length) // spec.hop_length + 1


def feature_rows(frames: int, spec: AudioSpec) -> int:
    """Return the number of feature rows, and of ids in the prompt, of a sound of ``frames`` frames."""
    steps = -(-frames // spec.compression_rate)
    return -(-steps // spec.downsample_rate)


@lru_cache(maxsize=4)
def mel_filters(spec: AudioSpec) -> NDArray[np.float32]:
    """Return triangular filters, [n_fft / 2 + 1, n_mels], equally wide and straight-sided on kaldi's mel scale."""
    bins = _mel(np.arange(spec.n_fft // 2 + 1) * (spec.rate_hz / spec.n_fft))[:, None]
    edges = np.linspace(_mel(spec.mel_min_hz), _mel(spec.mel_max_hz), spec.n_mels + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel(frequency_hz: NDArray[np.floating[Any]] | float) -> NDArray[np.float64]:
    return 1127 * np.log1p(np.asarray(frequency_hz, np.float64) / 700)
