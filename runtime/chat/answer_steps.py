"""Steps of one answer: its generator, advanced by one thread at a time and stopped by any thread.

Holds no reference to the ``Answer`` that returns the pieces, so that garbage collection of that object is noticed.
Independent of models.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from palmtop.runtime.decoding.cancellation import Cancellation

from .reply import Piece

Pieces = Generator[Piece, None, None]
Asker = tuple[int, "asyncio.Task[Any] | None"]


class AnswerSteps:
    """Runner of one answer's generator.

    Args:
        give: creates the generator; called once, nothing runs before the first ``step``.
        timeout_s: longest duration of the answer in seconds; None for no limit.

    Attributes:
        interruption: cancellation state that the generator checks.
        asked_by: thread that requested the first piece, and its task if that does not block; None before that.
    """

    def __init__(self, give: Callable[[AnswerSteps], Pieces], timeout_s: float | None) -> None:
        self.interruption = Cancellation(timeout_s)
        self.asked_by: Asker | None = None
        self._pieces = give(self)
        self._lock = threading.Lock()
        self._worker: int | None = None  # the thread that runs the generator
        self._begun = False
        self._ended = False
        self._dropped = False
        self._waiting: deque[Piece | BaseException] = deque()  # computed, but not yet returned

    def step(self) -> Piece | None:
        """Return the next piece; None after the last one, which also ends the generator.

        Raises:
            InputError: raised by the generator.
        """
        try:
            with self._lock:
                self._worker = threading.get_ident()
                try:
                    self._begun = True
                    if not self._waiting:
                        self._advance()
                    piece = self._waiting.popleft() if self._waiting else None
                finally:
                    self._worker = None
        finally:
            self.settle()
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def cancel(self) -> None:
        """Stop the answer; its last pieces can still be read. From any thread, at any time."""
        self.interruption.request()
        self.settle()

    def drop(self) -> None:
        """Stop the answer and discard its remaining pieces, without waiting. From any thread, at any time."""
        self._dropped = True
        self.cancel()

    def close(self) -> None:
        """Stop the answer as ``drop`` does, and wait for a thread that runs its generator."""
        self.drop()
        # otherwise a signal handler: it cannot wait for the code that it interrupts
        if self._worker != threading.get_ident():
            with self._lock:
                pass
            self.settle()

    def settle(self) -> None:
        """Carry out requests that came while a thread ran the generator; a thread that still runs it does so itself.

        An answer that has begun and is cancelled runs to its end here. No native call follows: cancellation is checked
        before each one.
        """
        while self._is_due() and self._lock.acquire(blocking=False):
            self._worker = threading.get_ident()
            try:
                if self._dropped:
                    self._ended = True
                    self._waiting.clear()
                    self._pieces.close()
                elif self._is_due():
                    self._run_out()
            finally:
                self._worker = None
                self._lock.release()

    def is_ending(self) -> bool:
        """Return whether it was stopped while another thread ran it: that thread, or the next ``settle``, ends it."""
        return self._is_due() and self._worker != threading.get_ident()

    def _is_due(self) -> bool:
        return not self._ended and (self._dropped or (self._begun and self.interruption()))

    def _advance(self) -> None:
        try:
            piece = next(self._pieces, None)
        except BaseException:
            self._ended = True
            raise
        if piece is None:
            self._ended = True
            return
        self._waiting.append(piece)
        if piece.reply is not None:
            self._run_out()

    def _run_out(self) -> None:
        self._ended = True
        try:
            self._waiting.extend(self._pieces)
        except BaseException as error:  # for the next call
            self._waiting.append(error)


def would_wait_for_itself(mine: Asker | None, other: Asker | None) -> bool:
    """Return whether an answer requested by ``mine`` can only begin after something that ``mine`` itself has to do.

    Two tasks of one event loop may wait for each other; a thread that blocks may not wait for itself.
    """
    if mine is None or other is None or mine[0] != other[0]:
        return False
    return mine[1] is None or other[1] is None or mine[1] is other[1]
