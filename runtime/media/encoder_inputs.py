"""Inputs of the encoder graphs: shape checks and input dictionaries. Runs nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.processor_config import AudioSpec

from .audio_windows import AudioWindow


def audio_feeds(log_mel: NDArray[np.float32], window: AudioWindow, vision: bool) -> dict[str, NDArray[Any]]:
    """Return the inputs of one run of audio.onnx."""
    feeds: dict[str, NDArray[Any]] = {"log_mel": log_mel[None, window.start : window.stop]}
    numbers = {"left_context": window.left_context, "window": window.fill_to, "projector": int(vision)}
    return feeds | {name: np.array([value], np.int64) for name, value in numbers.items()}


def check_log_mel(log_mel: NDArray[np.float32], spec: AudioSpec) -> None:
    """Refuse log-mel frames of another shape than the manifest's.

    Raises:
        InputError: names found and expected shapes.
    """
    if log_mel.ndim != 2 or log_mel.shape[1] != spec.n_mels or not len(log_mel):
        raise InputError(f"log-mel frames are {list(log_mel.shape)}, expected [T, {spec.n_mels}] with T from 1 on")
    if not np.isfinite(log_mel).all():
        raise InputError("log-mel frames hold a value that is not finite, expected numbers only")
