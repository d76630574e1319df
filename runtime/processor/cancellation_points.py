"""Large media are prepared in bounded pieces of work; between two of them somebody may end it."""

from __future__ import annotations

from collections.abc import Callable

Between = Callable[[], None]
"""Called between two pieces; what it raises ends the work."""


def go_on() -> None:
    """Nobody wants it to end."""
