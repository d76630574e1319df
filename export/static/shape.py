"""The numbers that a static graph is built for. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StaticShape:
    """Sizes of one graph.

    Attributes:
        context: C, positions of the cache.
        rows: S, tokens of a run: the chunk of a prefill graph, 1 of a decode graph.
    """

    context: int
    rows: int
