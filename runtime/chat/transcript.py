"""Text of one answer as its tokens come: whole characters, nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from palmtop.runtime.processor.pieces import Utf8Pieces

from .stop_strings import StopStrings


class Transcript:
    """Collects tokens and lets text out.

    Attributes:
        ids: tokens so far.
        text: let out so far.
    """

    def __init__(self, pieces: Utf8Pieces, stop: Sequence[str]) -> None:
        self.ids: list[int] = []
        self.text = ""
        self._pieces = pieces
        self._stops = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """A stop string has appeared; text ends before it."""
        return self._stops.found

    def push(self, token: int) -> str:
        """The text that may be shown now."""
        self.ids.append(token)
        return self._show(self._stops.feed(self._pieces.push(token)))

    def finish(self) -> str:
        """The text that was held back, when no more tokens come."""
        if self.stopped:
            return ""
        shown = self._show(self._stops.feed(self._pieces.flush()))
        return shown if self.stopped else shown + self._show(self._stops.rest())

    def _show(self, text: str) -> str:
        self.text += text
        return text
