"""Interface of what an image or a sound becomes before it is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.processor.prompt import Segment

Features = NDArray[np.float32]


class PreparedMedium(Protocol):
    """Interface of a prepared image or sound: segments of the prompt, and the order of its feature rows.

    The encoder graph runs on every batch; all outputs are passed to ``in_reading_order``.
    """

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments of the prompt for the medium: numbers of feature rows, and the text between them."""
        ...

    @property
    def key(self) -> str:
        """Identity of the medium; equal media have equal keys."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in the order of ``in_reading_order``."""
        ...

    @property
    def rows(self) -> int:
        """Number of feature rows: the sum of the numbers in ``segments``."""
        ...

    def in_reading_order(self, runs: Sequence[Sequence[Features]]) -> Features:
        """Return the feature rows, [rows, H], from the outputs of every run."""
        ...
