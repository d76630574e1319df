"""The order of a conversation's turns: one answer at a time, from any number of threads and tasks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

from palmtop.errors import InputError

from .answer_steps import AnswerSteps, would_wait_for_itself

POLL_S = 0.02  # interval at which an answer that waits for its turn checks for its cancellation


class TurnLock:
    """Lock of a conversation that its answers take one after the other.

    Attributes:
        answering: steps of the answer that is being given; None between two.
    """

    def __init__(self) -> None:
        self.answering: AnswerSteps | None = None
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, steps: AnswerSteps) -> Iterator[None]:
        """Wait for the turn of an answer, and hold it while the block runs.

        Raises:
            InputError: the answer would wait for itself, or was stopped while it waited.
        """
        steps.interruption.start()
        while not self._lock.acquire(blocking=False):
            other = self.answering
            if other is not None:
                other.settle()  # its time limit may have passed without a reader
                waits_for_itself = would_wait_for_itself(steps.asked_by, other.asked_by)
                if self.answering is other and waits_for_itself and not other.is_ending():
                    raise InputError(
                        "the conversation is still answering; finish, cancel or close that answer's iterator first"
                    )
            if steps.interruption():
                raise InputError("the answer was stopped while it waited for another one of this conversation")
            sleep(POLL_S)
        self.answering = steps
        try:
            yield
        finally:
            self.answering = None
            self._lock.release()

    @contextmanager
    def between(self, doing: str) -> Iterator[None]:
        """Keep turns from beginning while the block runs.

        Raises:
            InputError: an answer is being given.
        """
        if (answering := self.answering) is not None:
            answering.settle()  # it may have been cancelled, with pieces that nobody has read
        if not self._lock.acquire(blocking=False):
            raise InputError(f"{doing}: an answer is being given; finish or close it first")
        try:
            yield
        finally:
            self._lock.release()
