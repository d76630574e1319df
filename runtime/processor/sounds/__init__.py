"""Sound processors: one file for each kind in a manifest, from sounds to encoder inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import AudioSpec
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.prompt import Segment

Features = NDArray[np.float32]


class PreparedSound(Protocol):
    """Interface of a prepared sound: encoder inputs and segments of the prompt.

    The encoder graph runs on every batch; all outputs are passed to ``in_reading_order``.
    """

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments of the prompt for the sound: numbers of feature rows, and the text between them."""
        ...

    @property
    def key(self) -> str:
        """Identity of the sound; equal sounds have equal keys."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in the order of ``in_reading_order``."""
        ...

    @property
    def rows(self) -> int:
        """Number of feature rows: the sum of the numbers in ``segments``."""
        ...

    def check(self, spec: AudioSpec) -> None:
        """Refuse a sound whose arrays do not fit a bundle.

        Raises:
            InputError: names found and expected shapes.
        """
        ...

    def batches(self, vision_projector: bool) -> Iterator[dict[str, NDArray[Any]]]:
        """Return inputs of the graph's runs; the projector is that of the route."""
        ...

    def in_reading_order(self, runs: Sequence[Sequence[Features]]) -> Features:
        """Return the feature rows, [rows, H], from the outputs of every run."""
        ...


def prepare_sound(source: Any, spec: AudioSpec, between: Between = go_on) -> PreparedSound:
    """Prepare a sound with the kind of processor in the spec.

    Args:
        source: source for ``load_audio``.
        spec: spec of the manifest, which refuses kinds without a file here.
        between: called between two steps of the work; may raise to stop it.

    Raises:
        InputError: the sound cannot be read or used.
    """
    prepared: PreparedSound = import_module(f".{spec.kind}", __name__).prepare(source, spec, between)
    return prepared
