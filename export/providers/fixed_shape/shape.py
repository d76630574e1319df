"""The numbers that a static graph is built for. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StaticShape:
    """Sizes of one graph.

    Attributes:
        context: C, positions of the cache.
        rows: S, tokens of a run: the chunk of a prefill graph, 1 of a decode graph.
        is_apart: scores over the cache and over the new rows are products of their own. That copies no cache: half the
            time of a decode step's attention at 4,096 positions (OpenVINO and onnxruntime on x86), for more operators.
    """

    context: int
    rows: int
    is_apart: bool = False
