"""Sounds become encoder inputs: one file for each kind of sound processor that a manifest names."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import AudioSpec
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.prompt import Segment


def prepare_sound(source: Any, spec: AudioSpec, between: Between = go_on) -> NDArray[np.float32]:
    """Frames [T, F] of a sound, as the kind of processor that the spec names makes them.

    Raises:
        InputError: the sound cannot be read or used.
    """
    frames: NDArray[np.float32] = import_module(f".{spec.kind}", __name__).prepare(source, spec, between)
    return frames


def sound_segments(frames: int, spec: AudioSpec) -> tuple[Segment, ...]:
    """What stands in the prompt for a sound of that many frames: numbers of feature rows, and the text between them."""
    found: tuple[Segment, ...] = import_module(f".{spec.kind}", __name__).segments(frames, spec)
    return found
