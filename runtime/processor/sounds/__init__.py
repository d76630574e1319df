"""Sound processors: one file for each kind in a manifest, from sounds to encoder inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import AudioSpec
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.prepared import PreparedMedium


class PreparedSound(PreparedMedium, Protocol):
    """Interface of a prepared sound: encoder inputs of one kind of processor."""

    def check(self, spec: AudioSpec) -> None:
        """Refuse a sound whose arrays do not fit a bundle.

        Raises:
            InputError: names found and expected shapes.
        """
        ...

    def batches(self, vision_projector: bool) -> Iterator[dict[str, NDArray[Any]]]:
        """Return inputs of the graph's runs; the projector is that of the route."""
        ...


def static_steps(window: Mapping[str, NDArray[Any]], spec: AudioSpec) -> int:
    """Return the number of encoder steps that a window needs of a graph of fixed shapes."""
    steps: int = _kind(spec).static_steps(window, spec)
    return steps


def static_sound_feeds(
    window: Mapping[str, NDArray[Any]], spec: AudioSpec, steps: int
) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the inputs of an encoder graph of fixed shapes for one window, and the number of feature rows to keep.

    Args:
        window: inputs of the graph with dynamic shapes for that window (``PreparedSound.batches``).
        spec: spec of the manifest.
        steps: S of the graph, at least ``static_steps``.
    """
    feeds, rows = _kind(spec).static_feeds(window, spec, steps)
    return feeds, rows


def prepare_sound(source: Any, spec: AudioSpec, between: Between = go_on) -> PreparedSound:
    """Prepare a sound with the kind of processor in the spec.

    Args:
        source: source for ``load_audio``.
        spec: spec of the manifest, which refuses kinds without a file here.
        between: called between two steps of the work; may raise to stop it.

    Raises:
        InputError: the sound cannot be read or used.
    """
    prepared: PreparedSound = _kind(spec).prepare(source, spec, between)
    return prepared


def _kind(spec: AudioSpec) -> Any:
    return import_module(f".{spec.kind}", __name__)
