"""Reasons to end an answer early: a request to cancel, or a limit of seconds."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Literal

InterruptionReason = Literal["cancelled", "timeout"]


class Cancellation:
    """Cancellation state of one answer, checked between any two steps.

    Safe to use from any thread.

    Args:
        timeout_s: longest duration of the answer in seconds, from ``start`` on; None for no limit.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._wanted = threading.Event()

    def start(self) -> None:
        """Start the answer's clock."""
        if self._timeout_s is not None:
            self._deadline = monotonic() + self._timeout_s

    def request(self) -> None:
        """Request a stop as soon as possible, also before the answer has begun."""
        self._wanted.set()

    @property
    def reason(self) -> InterruptionReason | None:
        """Reason to stop now; None to continue."""
        if self._wanted.is_set():
            return "cancelled"
        return "timeout" if self._deadline is not None and monotonic() >= self._deadline else None

    def __call__(self) -> bool:
        """Return whether to stop now."""
        return self.reason is not None
