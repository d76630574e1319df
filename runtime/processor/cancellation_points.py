"""Cancellation points: large media are prepared in bounded steps, between which the work can be stopped."""

from __future__ import annotations

from collections.abc import Callable

Between = Callable[[], None]
"""Function that is called between two steps; an exception of it stops the work."""


def go_on() -> None:
    """Continue without a cancellation."""
