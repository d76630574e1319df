"""Sound processors: one file for each kind in a manifest, from sounds to encoder inputs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import AudioSpec
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.prompt import Segment


def prepare_sound(source: Any, spec: AudioSpec, between: Between = go_on) -> NDArray[np.float32]:
    """Return the frames of a sound, [T, F], from the kind of processor in the spec.

    Raises:
        InputError: the sound cannot be read or used.
    """
    frames: NDArray[np.float32] = import_module(f".{spec.kind}", __name__).prepare(source, spec, between)
    return frames


def sound_segments(frames: int, spec: AudioSpec) -> tuple[Segment, ...]:
    """Return the prompt's segments for a sound of ``frames`` frames: numbers of feature rows, and text between them."""
    found: tuple[Segment, ...] = import_module(f".{spec.kind}", __name__).segments(frames, spec)
    return found
