"""The work behind one answer: its generator, stepped by one thread at a time and ended by any.

Holds no reference to the ``Answer`` that shows the pieces, so that dropping that one is noticed. Knows nothing of
models.
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
    """Runs one answer's generator.

    Args:
        give: makes the generator; called once, nothing runs before the first ``step``.
        timeout_s: seconds that the answer may take; None for no limit.

    Attributes:
        interruption: what the generator asks whether to go on.
        asked_by: thread that asked for the first piece, and its task if that does not block; None before that.
    """

    def __init__(self, give: Callable[[AnswerSteps], Pieces], timeout_s: float | None) -> None:
        self.interruption = Cancellation(timeout_s)
        self.asked_by: Asker | None = None
        self._pieces = give(self)
        self._lock = threading.Lock()
        self._worker: int | None = None  # the thread that is at work
        self._begun = False
        self._ended = False
        self._dropped = False
        self._waiting: deque[Piece | BaseException] = deque()  # given, and not asked for yet

    def step(self) -> Piece | None:
        """The next piece; None when there is none. The last one ends the generator: nothing waits for a further call.

        Raises:
            InputError: what the generator raises.
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
        """End the answer with its last pieces, which can still be asked for; from any thread, at any time."""
        self.interruption.request()
        self.settle()

    def drop(self) -> None:
        """End the answer, nobody asks for its pieces any more; from any thread, at any time, without waiting."""
        self._dropped = True
        self.cancel()

    def close(self) -> None:
        """As ``drop``, and wait for a thread that is at work."""
        self.drop()
        if self._worker != threading.get_ident():  # else a signal's handler: it cannot wait for what it interrupts
            with self._lock:
                pass
            self.settle()

    def settle(self) -> None:
        """Carry out what was asked for while a thread was at work; one that still is will do it itself.

        An answer that has begun and is to be interrupted runs to its end here. That takes no native call: it is
        asked before each one whether it is to go on.
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
        except BaseException as error:  # for whoever asks next
            self._waiting.append(error)


def would_wait_for_itself(mine: Asker | None, other: Asker | None) -> bool:
    """Whether an answer asked for by ``mine`` can only begin after something that ``mine`` itself has to do.

    Two tasks of one event loop may wait for each other; a thread that blocks may not wait for itself.
    """
    if mine is None or other is None or mine[0] != other[0]:
        return False
    return mine[1] is None or other[1] is None or mine[1] is other[1]
