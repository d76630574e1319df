"""Samples become kaldi-style log-mel features, and frames are counted as the encoder will see them.

Follows Phi4MultimodalFeatureExtractor of transformers 5.23: pre-emphasis inside every frame, a symmetric
Hamming window, the power spectrum, triangles that are straight on the mel scale, log with a floor of 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import AudioSpec
from palmtop.runtime.processor.cancellation_points import Between, go_on

from .sound_file import load_audio

__all__ = ["count_frames", "feature_rows", "load_audio", "log_mel", "log_mel_blocks", "mel_filters"]

BLOCK_FRAMES = 2048
"""Frames at a time: their float64 spectra take 40 MB at most."""
FULL_SCALE = np.float32(32768)
"""The features were made for 16-bit samples."""


def log_mel(samples: NDArray[np.float32], spec: AudioSpec, between: Between = go_on) -> NDArray[np.float32]:
    """Features of a sound.

    Args:
        samples: [N] mono, -1..1, at ``spec.rate_hz``.
        spec: frame and filter sizes.
        between: called between two blocks of frames.

    Returns:
        [T, n_mels], T = (N - win_length) // hop_length + 1.

    Raises:
        InputError: shorter than one frame.
    """
    result = np.empty((count_frames(len(samples), spec), spec.n_mels), np.float32)
    start = 0
    for block in log_mel_blocks(samples, spec):
        between()
        result[start : start + len(block)] = block
        start += len(block)
    return result


def log_mel_blocks(samples: NDArray[np.float32], spec: AudioSpec) -> Iterator[NDArray[np.float32]]:
    """The rows of ``log_mel`` in order, at most ``BLOCK_FRAMES`` at a time.

    Raises:
        InputError: shorter than one frame.
    """
    total = count_frames(len(samples), spec)
    filters = mel_filters(spec)
    window = np.hamming(spec.win_length)
    for first in range(0, total, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, total)
        piece = samples[first * spec.hop_length : (last - 1) * spec.hop_length + spec.win_length]
        # [frames, win_length]
        frames = np.lib.stride_tricks.sliding_window_view(piece, spec.win_length)[:: spec.hop_length]
        # A frame's first sample has no predecessor: it is its own, as in kaldi.
        previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        sharp = (frames - np.float32(spec.preemphasis) * previous) * FULL_SCALE
        spectrum = np.fft.rfft(window * sharp, n=spec.n_fft, axis=1)
        power = np.abs(spectrum).astype(np.float32) ** 2
        yield np.log(np.maximum(power @ filters, np.float32(1)))


def count_frames(samples: int, spec: AudioSpec) -> int:
    """Frames of a sound of that many samples.

    Raises:
        InputError: shorter than one frame.
    """
    if samples < spec.win_length:
        raise InputError(f"the sound has {samples} samples, expected at least one frame of {spec.win_length}")
    return (samples - spec.win_length) // spec.hop_length + 1


def feature_rows(frames: int, spec: AudioSpec) -> int:
    """Feature rows, and so ids in the prompt, of a sound of that many frames."""
    steps = -(-frames // spec.compression_rate)
    return -(-steps // spec.downsample_rate)


@lru_cache(maxsize=4)
def mel_filters(spec: AudioSpec) -> NDArray[np.float32]:
    """[n_fft / 2 + 1, n_mels] triangles, equally wide and straight-sided on kaldi's mel scale."""
    bins = _mel(np.arange(spec.n_fft // 2 + 1) * (spec.rate_hz / spec.n_fft))[:, None]
    edges = np.linspace(_mel(spec.mel_min_hz), _mel(spec.mel_max_hz), spec.n_mels + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel(frequency_hz: NDArray[np.floating[Any]] | float) -> NDArray[np.float64]:
    return 1127 * np.log1p(np.asarray(frequency_hz, np.float64) / 700)
