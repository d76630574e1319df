"""Pictures become encoder inputs: one file for each kind of image processor that a manifest names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import ImageSpec
from palmtop.runtime.processor.cancellation_points import Between, go_on
from palmtop.runtime.processor.prompt import Segment

Features = NDArray[np.float32]


class PreparedImage(Protocol):
    """One picture, ready for the vision encoder, whatever kind of processor made it.

    An encoder runs the graph on every batch and hands all outputs to ``in_reading_order``.
    """

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What stands in the prompt for the picture: numbers of feature rows, and the text between them."""
        ...

    @property
    def key(self) -> str:
        """Equal pictures have equal keys."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Of the graph, as ``in_reading_order`` takes them."""
        ...

    @property
    def rows(self) -> int:
        """Feature rows: the sum of the numbers among ``segments``."""
        ...

    def check(self, spec: ImageSpec) -> None:
        """Refuse what does not fit a bundle.

        Raises:
            InputError: with found and expected shapes.
        """
        ...

    def batches(self, at_once: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Inputs of the graph's runs, of at most so many views each."""
        ...

    def in_reading_order(self, runs: Sequence[Sequence[Features]]) -> Features:
        """[rows, H] from the outputs of every run."""
        ...


def prepare_image(source: Any, spec: ImageSpec, between: Between = go_on) -> PreparedImage:
    """A picture as the kind of processor that the spec names prepares it.

    Args:
        source: what ``load_image`` takes.
        spec: of the manifest, which refuses kinds that have no file here.
        between: called between two pieces of the work.

    Raises:
        InputError: the picture cannot be read or used.
    """
    prepared: PreparedImage = import_module(f".{spec.kind}", __name__).prepare(source, spec, between)
    return prepared
