"""Measured times of one answer."""

from __future__ import annotations

from time import perf_counter


class Timings:
    """Stopwatch of one answer: started when it is made."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._first: float | None = None
        self._last = self._started
        self._tokens = 0

    def token(self) -> None:
        """Record that a token has been sampled."""
        self._last = perf_counter()
        self._first = self._first or self._last
        self._tokens += 1

    @property
    def ttft_s(self) -> float:
        """Seconds from the start to the first token; to now before there is one."""
        return (self._first or perf_counter()) - self._started

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second after the first token."""
        if self._tokens < 2 or self._first is None:
            return 0.0
        return (self._tokens - 1) / max(self._last - self._first, 1e-9)
