"""A streamed answer: an iterator of pieces for ``for`` and for ``async for``.

With ``async for`` every step runs in a thread of the answer. The event loop is blocked while Python's lock is held:
with genai for one chunk of the prompt, or one token (docs/event-loop.md). Independent of models.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from palmtop.errors import InputError

from .answer_steps import AnswerSteps, Pieces
from .reply import Piece, Reply


class Answer:
    """Iterator over the pieces of an answer as they are sampled; nothing runs before the first piece is requested.

    An answer ends early when it is closed, when its ``with`` statement is left, or when no reference to it remains, as
    after a ``break`` out of a loop over ``session.chat(...)``.

    >>> for piece in conversation.chat("Hello"):  # doctest: +SKIP
    ...     print(piece.text, end="", flush=True)
    >>> async for piece in conversation.chat("Hello"):  # doctest: +SKIP
    ...     await send(piece.text)
    >>> reply = await conversation.chat("Hello")  # doctest: +SKIP

    Attributes:
        reply: the complete answer, after the last piece; None before.
    """

    def __init__(self, give: Callable[[AnswerSteps], Pieces], timeout_s: float | None) -> None:
        self.reply: Reply | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._step: Future[Piece | None] | None = None
        self._steps = AnswerSteps(give, timeout_s)

    def cancel(self) -> None:
        """Stop after the chunk or token that is being computed; from any thread, at any time.

        The last piece still follows, and its reply has the finish reason "cancelled"; the conversation can give the
        next answer whether that piece is read or not. An answer that has not begun ends at once.
        """
        self._steps.cancel()

    def result(self) -> Reply:
        """Return the complete reply; remaining pieces are skipped."""
        for _ in self:
            pass
        if self.reply is None:
            raise InputError("the answer was closed before its end, expected an open one")
        return self.reply

    @property
    def text(self) -> str:
        """Text of the complete reply; waits for it."""
        return self.result().text

    def close(self) -> None:
        """End the answer; text so far stays in the conversation."""
        self._steps.close()  # a thread may be running; it stops at the next chunk
        self._dismiss()

    def __del__(self) -> None:
        steps = getattr(self, "_steps", None)
        if steps is not None:
            steps.drop()
            self._dismiss()

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> Piece:
        if self._steps.asked_by is None:
            self._steps.asked_by = threading.get_ident(), None
        piece = self._steps.step()
        if piece is None:
            raise StopIteration
        return self._seen(piece)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Piece:
        if self._steps.asked_by is None:
            self._steps.asked_by = threading.get_ident(), asyncio.current_task()
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="palmtop-answer")
        if self._step is not None and not self._step.done():
            raise InputError("a piece of this answer is being waited for already, expected one task at a time")
        self._step = self._worker.submit(self._steps.step)  # refers to the steps alone: see answer_steps
        try:
            piece = await asyncio.wrap_future(self._step)
        except asyncio.CancelledError:
            self._steps.drop()  # the waiting task was cancelled: free the thread and the conversation
            self._dismiss()
            raise
        except BaseException:
            self._dismiss()
            raise
        if piece is None:
            self._dismiss()
            raise StopAsyncIteration
        return self._seen(piece)

    def __await__(self) -> Generator[Any, None, Reply]:
        return self._whole().__await__()

    async def _whole(self) -> Reply:
        async for _ in self:
            pass
        if self.reply is None:
            raise InputError("the answer was closed before its end, expected an open one")
        return self.reply

    async def aclose(self) -> None:
        """End the answer as ``close`` does, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _seen(self, piece: Piece) -> Piece:
        self.reply = piece.reply or self.reply
        return piece

    def _dismiss(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.shutdown(wait=False)

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
