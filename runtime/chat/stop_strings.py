"""Stop strings in streamed text: nothing that could still become one is let out."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on until a stop string appears.

    >>> stops = StopStrings(["END"])
    >>> stops.feed("one E"), stops.feed("ND two"), stops.found
    ('one ', '', True)
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.found = False
        self._strings = tuple(strings)
        self._held = ""

    def feed(self, text: str) -> str:
        """What may be shown of the text so far and was not shown before."""
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
        """What was held back, when no more text comes."""
        out, self._held = self._held, ""
        return out

    def _overlap(self, string: str) -> int:
        """Length of the longest end of the held text that begins the string."""
        longest = min(len(string) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(string[:n])), 0)
