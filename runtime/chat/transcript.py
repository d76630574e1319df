"""Text of one answer while its tokens arrive: whole characters, without the stop string."""

from __future__ import annotations

from collections.abc import Sequence

from palmtop.runtime.processor.pieces import Utf8Pieces

from .stop_strings import StopStrings


class Transcript:
    """Collector of tokens that returns the text that can be shown.

    Attributes:
        ids: token ids so far.
        text: text returned so far.
    """

    def __init__(self, pieces: Utf8Pieces, stop: Sequence[str]) -> None:
        self.ids: list[int] = []
        self.text = ""
        self._pieces = pieces
        self._stops = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared; the text ends before it."""
        return self._stops.found

    def push(self, token: int) -> str:
        """Add a token; return the text that can be shown now."""
        self.ids.append(token)
        return self._show(self._stops.feed(self._pieces.push(token)))

    def finish(self) -> str:
        """Return the text that was held back, after the last token."""
        if self.stopped:
            return ""
        shown = self._show(self._stops.feed(self._pieces.flush()))
        return shown if self.stopped else shown + self._show(self._stops.rest())

    def _show(self, text: str) -> str:
        self.text += text
        return text
