"""An answer while it is given: an iterator of pieces for ``for`` and for ``async for``.

With ``async for`` every step runs in a thread of the answer's own, and the event loop stays free but for the
time in which genai holds Python's lock: one chunk of the prompt, or one token. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from palmtop.errors import InputError

from .interruption import Interruption
from .reply import Piece, Reply

Pieces = Generator[Piece, None, None]
Asker = tuple[int, "asyncio.Task[Any] | None"]


class Answer:
    """Pieces of text as they are sampled; nothing runs before the first one is asked for.

    Closing it, or leaving its ``with`` statement, ends the answer early.

    >>> for piece in conversation.say("Hello"):  # doctest: +SKIP
    ...     print(piece.text, end="", flush=True)
    >>> async for piece in conversation.say("Hello"):  # doctest: +SKIP
    ...     await send(piece.text)

    Attributes:
        reply: the whole answer, once the last piece has been given.
    """

    def __init__(self, give: Callable[[Interruption, Answer], Pieces], timeout_s: float | None) -> None:
        self.reply: Reply | None = None
        self._interruption = Interruption(timeout_s)
        self._pieces = give(self._interruption, self)
        self._stepping = threading.Lock()
        self._asker: Asker | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._step: Future[Piece | None] | None = None

    def cancel(self) -> None:
        """Stop after the chunk or token that is being computed; from any thread, at any time.

        The last piece still comes, and its reply says "cancelled". An answer that has not begun ends at once.
        """
        self._interruption.request()

    def result(self) -> Reply:
        """The whole answer; pieces that were not asked for yet are passed over."""
        for _ in self:
            pass
        if self.reply is None:
            raise InputError("the answer was closed before its end, expected an open one")
        return self.reply

    def close(self) -> None:
        """End the answer; what was said so far stays in the conversation."""
        self._interruption.request()
        with self._stepping:  # a thread may be at work; it stops at the next chunk
            self._pieces.close()
        self._dismiss()

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> Piece:
        if self._asker is None:
            self._asker = threading.get_ident(), None
        return self._next()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Piece:
        if self._asker is None:
            self._asker = threading.get_ident(), asyncio.current_task()
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="palmtop-answer")
        if self._step is not None and not self._step.done():
            raise InputError("a piece of this answer is being waited for already, expected one task at a time")
        self._step = self._worker.submit(next, self, None)  # a future cannot carry StopIteration
        try:
            piece = await asyncio.wrap_future(self._step)
        except asyncio.CancelledError:
            self._interruption.request()  # whoever waited is gone: free the thread, and the conversation
            self._step.add_done_callback(lambda _: self._pieces.close())
            self._dismiss()
            raise
        except BaseException:
            self._dismiss()
            raise
        if piece is None:
            self._dismiss()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """As ``close``, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _next(self) -> Piece:
        with self._stepping:
            piece = next(self._pieces)
        self.reply = piece.reply or self.reply
        return piece

    def _dismiss(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.shutdown(wait=False)

    @property
    def asked_by(self) -> Asker | None:
        """Thread that asked for the first piece, and its task if that does not block; None before that."""
        return self._asker

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def would_wait_for_itself(mine: Asker | None, other: Asker | None) -> bool:
    """Whether an answer asked for by ``mine`` can only begin after something that ``mine`` itself has to do.

    Two tasks of one event loop may wait for each other; a thread that blocks may not wait for itself.
    """
    if mine is None or other is None or mine[0] != other[0]:
        return False
    return mine[1] is None or other[1] is None or mine[1] is other[1]
