"""Stop strings in streamed text: text that may begin a stop string is held back."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Filter that passes streamed text on until a stop string appears.

    >>> stops = StopStrings(["END"])
    >>> stops.feed("one E"), stops.feed("ND two"), stops.found
    ('one ', '', True)
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.found = False
        self._strings = tuple(strings)
        self._held = ""

    def feed(self, text: str) -> str:
        """Add text; return the part that can be shown now."""
        if self.found:
            return ""
        self._held += text
        places = [place for place in (self._held.find(s) for s in self._strings) if place >= 0]
        if places:
            self.found = True
            out, self._held = self._held[: min(places)], ""
            return out
        keep = max((self._overlap(s) for s in self._strings), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def rest(self) -> str:
        """Return the text that was held back, after the last of the text."""
        out, self._held = self._held, ""
        return out

    def _overlap(self, string: str) -> int:
        """Length of the longest end of the held text that begins the stop string."""
        longest = min(len(string) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(string[:n])), 0)
