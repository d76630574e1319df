"""What can end an answer before its time: somebody's wish, or a limit of seconds."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Literal

InterruptionReason = Literal["cancelled", "timeout"]


class Cancellation:
    """Asked between any two steps whether to go on; one for each answer. Safe to use from any thread.

    Args:
        timeout_s: seconds that the answer may take from ``start`` on; None for no limit.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._wanted = threading.Event()

    def start(self) -> None:
        """The answer begins: its time runs from now on."""
        if self._timeout_s is not None:
            self._deadline = monotonic() + self._timeout_s

    def request(self) -> None:
        """Stop as soon as possible, even if the answer has not begun."""
        self._wanted.set()

    @property
    def reason(self) -> InterruptionReason | None:
        """Why to stop now; None to go on."""
        if self._wanted.is_set():
            return "cancelled"
        return "timeout" if self._deadline is not None and monotonic() >= self._deadline else None

    def __call__(self) -> bool:
        """Whether to stop now."""
        return self.reason is not None
