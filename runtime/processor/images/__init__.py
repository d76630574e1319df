"""Image processors: one file for each kind in a manifest, from images to encoder inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import ImageSpec
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.prepared import PreparedMedium


class PreparedImage(PreparedMedium, Protocol):
    """Interface of a prepared image: encoder inputs of one kind of processor."""

    def check(self, spec: Any) -> None:
        """Refuse an image whose arrays do not fit a bundle.

        Args:
            spec: spec of the image's own kind.

        Raises:
            InputError: names found and expected shapes.
        """
        ...

    def batches(self, at_once: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Return inputs of the graph's runs, of at most ``at_once`` views each."""
        ...


def static_image_feeds(
    view: Mapping[str, NDArray[Any]], spec: ImageSpec, shapes: Mapping[str, Sequence[int]]
) -> dict[str, NDArray[Any]]:
    """Return the inputs of an encoder graph of fixed shapes, for one view.

    Args:
        view: inputs of the graph with dynamic shapes for that view (``PreparedImage.batches(1)``).
        spec: spec of the manifest.
        shapes: shapes of the graph's inputs by name.
    """
    feeds: dict[str, NDArray[Any]] = _kind(spec).static_feeds(view, shapes)
    return feeds


def prepare_image(source: Any, spec: ImageSpec, between: Between = go_on) -> PreparedImage:
    """Prepare an image with the kind of processor in the spec.

    Args:
        source: source for ``load_image``.
        spec: spec of the manifest, which refuses kinds without a file here.
        between: called between two steps of the work; may raise to stop it.

    Raises:
        InputError: the image cannot be read or used.
    """
    prepared: PreparedImage = _kind(spec).prepare(source, spec, between)
    return prepared


def _kind(spec: ImageSpec) -> Any:
    return import_module(f".{spec.kind}", __name__)
