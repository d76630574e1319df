"""Served bundles: names, loading and unloading by use within a limit of memory, and their answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, time
from typing import Any

from palmtop.errors import InputError, MemoryPlanError, PalmtopError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.chat.reply import Piece
from palmtop.runtime.chat.routing import AdapterRequest, chosen_by_name
from palmtop.runtime.chat.stream import Answer
from palmtop.runtime.media.encoder_runner import return_freed_memory
from palmtop.runtime.processor.tool_formats import ToolFormat, calls_of
from palmtop.runtime.serve.wire.api_error import ApiError
from palmtop.runtime.serve.wire.chat_request import Question
from palmtop.runtime.session import Session, load_session
from palmtop.runtime.session_options import SessionOptions

from .session_store import SessionStore
from .slots import Beginning, Slot, Slots, beginning_of
from .turns import Turns

logger = logging.getLogger(__name__)

SAVE_AFTER_S = 10.0
"""Seconds without a request after which sessions are saved."""
TRIM_AFTER_S = 1.0
"""Seconds without a request after which freed memory is returned to the system."""


@dataclass(slots=True, eq=False)
class Model:
    """One served bundle and its session.

    Attributes:
        name: name of its folder.
        path: path of its folder.
        manifest: manifest, read at the start.
        turns: queue of its requests.
        calls: format of its tool calls.
        marks: marks of that format for which its tokenizer has special tokens.
        session: the session; None while it is not loaded.
        slots: conversations, each with a KV cache of its own.
        store: files of sessions; None to keep none.
        answer: the last answer, which may still be ending.
        used_at: time of its last turn, by ``monotonic``.
    """

    name: str
    path: Path
    manifest: Manifest
    turns: Turns
    calls: ToolFormat
    marks: frozenset[str]
    slots: Slots[Conversation]
    store: SessionStore | None = None
    session: Session | None = None
    answer: Answer | None = None
    used_at: float = 0.0
    created: int = field(default_factory=lambda: int(time()))

    def names(self) -> list[str]:
        """The model's own name, and one for each adapter and route that can be requested."""
        switched = [a.name for a in self.manifest.adapters] if self.manifest.adapter_mode == "gated" else []
        return [self.name, *(f"{self.name}:{part}" for part in dict.fromkeys([*switched, *self.manifest.routes]))]

    def save_sessions(self) -> None:
        """Write the conversations of sessions that have changed since they were saved."""
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.close()
        for slot in self.slots:
            self.save(slot)

    def save(self, slot: Slot[Conversation]) -> None:
        """Write a slot's conversation if it belongs to a session and has changed; a failure is logged."""
        if self.store is None or slot.session is None or slot.is_saved:
            return
        slot.is_saved = True
        try:
            slot.cache.save(self.store.path(self.name, slot.session))
            self.store.trim()
        except PalmtopError as error:
            logger.warning("a session of %s was not saved: %s", self.name, error)

    def resume(self, slot: Slot[Conversation], name: str | None) -> None:
        """Give a slot to a session: save the one before, and continue this one's conversation where it was saved."""
        if self.store is None or slot.session == name:
            return
        self.save(slot)
        slot.session = name
        if name is None or self.session is None or not (path := self.store.path(self.name, name)).exists():
            return
        slot.cache.close()  # its memory is needed for the other
        try:
            slot.cache = self.session.restore(path)
            self.store.touch(path)
        except PalmtopError as error:
            logger.warning("a session of %s was not restored, its request is read again: %s", self.name, error)

    def close(self) -> None:
        """Free the native model, after the last step of an answer that was dropped."""
        session, self.session = self.session, None
        self.save_sessions()
        self.slots.clear()
        if session is not None:
            session.close()


class Models:
    """All served bundles of a server.

    Args:
        paths: paths of bundles; the folder's name is the model's.
        loading: options for loading; ``memory_limit`` is the limit of all together.
        queue: most requests that may wait for each.
        conversations: most conversations of each model whose KV caches are kept, memory permitting.
        store: files of sessions; None to keep none.

    Raises:
        BundleError: a bundle is damaged.
        InputError: two bundles have the same name.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        loading: SessionOptions,
        queue: int,
        conversations: int = 1,
        store: SessionStore | None = None,
    ) -> None:
        self._loading = loading
        self._lock = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[Session]] = {}
        self._savers: dict[str, asyncio.Task[None]] = {}
        self._trimming: asyncio.Task[None] | None = None
        self.models: dict[str, Model] = {}
        for path in paths:
            bundle = open_bundle(path)
            name = path.resolve().name
            if name in self.models:
                raise InputError(f"{path}: a bundle named '{name}' is there already, expected folders of other names")
            if ":" in name:
                raise InputError(f"{path}: the folder's name has a colon, expected one without")
            calls, marks = calls_of(bundle)
            self.models[name] = Model(
                name, path, bundle.manifest, Turns(queue), calls, marks, Slots(conversations), store
            )

    def find(self, name: str) -> tuple[Model, AdapterRequest | None]:
        """Return the model of a name, and the name's choice of adapters.

        Raises:
            ApiError: there is no such model (404).
        """
        base, _, part = name.partition(":")
        model = self.models.get(base)
        choice = chosen_by_name(model.manifest, part) if model is not None and part else None
        if model is None or (":" in name and choice is None):
            there = ", ".join(self.models)
            message = f"model: found {name!r:.100}, expected one that GET /v1/models lists (of {there})"
            raise ApiError(404, message, code="model_not_found", param="model")
        return model, choice

    def listed(self, name: str) -> dict[str, Any]:
        """Return a model as ``/v1/models`` lists it.

        Raises:
            ApiError: there is no such model (404).
        """
        model, _ = self.find(name)
        return {"id": name, "object": "model", "created": model.created, "owned_by": "palmtop"}

    async def load(self, model: Model) -> Session:
        """Return a model's session, loaded if needed; idle sessions are closed for it, longest unused first.

        Loading continues if the waiting client disconnects.

        Raises:
            BundleError: the bundle is damaged.
            MemoryPlanError: the model does not fit beside those in use.
        """
        if model.session is not None:
            return model.session
        task = self._tasks.get(model.name)
        if task is None:
            task = asyncio.create_task(self._load(model))
            self._tasks[model.name] = task
            task.add_done_callback(
                lambda done: (self._tasks.pop(model.name, None), done.cancelled() or done.exception())
            )
        return await asyncio.shield(task)

    async def pieces(self, question: Question, client: str) -> AsyncIterator[Piece]:
        """Yield the answer to a question, in its turn. Closing the iterator ends the turn.

        Raises:
            ApiError: there is no such model, or its queue is full.
            PalmtopError: as for ``Conversation.respond``.
        """
        model, choice = self.find(question.model)
        options = question.options
        if (forced := question.tools.grammar(model.calls, model.marks)) is not None:
            options = replace(options, grammar=forced)
        beginning = await asyncio.to_thread(
            beginning_of, question.messages, question.tools.tools, question.adapters or choice
        )
        async with self.turn(model, client) as session:
            has_begun = False
            while True:
                conversation = await self.conversation(model, session, beginning, may_grow=True, name=question.session)
                answer = conversation.respond(
                    question.messages,
                    adapters=question.adapters or choice,
                    options=options,
                    tools=question.tools.tools,
                )
                try:
                    async with self.answering(model, answer) as pieces:
                        async for piece in pieces:
                            has_begun = True
                            yield piece
                    return
                except MemoryPlanError:
                    if has_begun or not model.slots.give_up(conversation):
                        raise

    @asynccontextmanager
    async def turn(self, model: Model, client: str) -> AsyncIterator[Session]:
        """Yield a turn with a model, loaded if needed.

        Raises:
            ApiError: the queue is full.
            PalmtopError: as for ``load``.
        """
        async with model.turns.turn(client):
            try:
                yield await self.load(model)
            finally:
                model.used_at = monotonic()
        self._save_soon(model)
        self._trim_soon()

    async def conversation(
        self, model: Model, session: Session, beginning: Beginning, *, may_grow: bool, name: str | None = None
    ) -> Conversation:
        """Return the conversation for a request, after the last step of an answer that was dropped.

        Args:
            model: model whose turn it is.
            session: session of the model.
            beginning: beginning of the request.
            may_grow: whether another KV cache may be opened, memory permitting.
            name: session that the request names.
        """
        last, model.answer = model.answer, None
        if last is not None:
            await asyncio.to_thread(last.close)
        limit = self._loading.memory_limit
        has_room = limit is None or self._taken() + session.plan.conversation <= limit
        slot = model.slots.take(beginning, session.conversation, may_grow=may_grow and has_room, session=name)
        await to_its_end(model.resume, slot, name)
        slot.is_saved = name is None
        return slot.cache

    @asynccontextmanager
    async def answering(self, model: Model, answer: Answer) -> AsyncIterator[Answer]:
        """Yield an answer that ends when the block is left, read or not."""
        model.answer = answer
        try:
            yield answer
        finally:
            answer.cancel()  # at once: the next answer waits for a running step

    def _save_soon(self, model: Model) -> None:
        """Save a model's sessions once it has been idle for a while."""
        if model.store is None or all(slot.is_saved for slot in model.slots):
            return

        async def save() -> None:
            await asyncio.sleep(SAVE_AFTER_S)
            if not model.turns.is_busy:  # otherwise that turn's end comes back here
                async with model.turns.turn("sessions"):
                    await to_its_end(model.save_sessions)

        if (waiting := self._savers.pop(model.name, None)) is not None:
            waiting.cancel()
        self._savers[model.name] = asyncio.create_task(save())

    def _trim_soon(self) -> None:
        """Return freed memory once all models have been idle for a while."""

        async def trim() -> None:
            await asyncio.sleep(TRIM_AFTER_S)
            if not any(model.turns.is_busy for model in self.models.values()):
                await asyncio.to_thread(return_freed_memory)

        if self._trimming is not None:
            self._trimming.cancel()
        self._trimming = asyncio.create_task(trim())

    async def close(self) -> None:
        """Free all models; their sessions are saved."""
        if self._trimming is not None:
            self._trimming.cancel()
        for saver in self._savers.values():
            saver.cancel()
        await asyncio.gather(*self._savers.values(), return_exceptions=True)
        for task in list(self._tasks.values()):
            await asyncio.wait({task})
        for model in self.models.values():
            await asyncio.to_thread(model.close)

    async def _load(self, model: Model) -> Session:
        async with self._lock:
            while True:
                loaded = [m for m in self.models.values() if m.session is not None]
                try:
                    options = self._options()
                    logger.info("loading %s", model.name)
                    model.session = await asyncio.to_thread(load_session, model.path, options)
                    return model.session
                except MemoryPlanError:
                    idle = [m for m in loaded if not m.turns.is_busy]
                    if not idle:
                        raise
                    oldest = min(idle, key=lambda m: m.used_at)
                    logger.info("unloading %s", oldest.name)
                    await asyncio.to_thread(oldest.close)

    def _options(self) -> SessionOptions:
        limit = self._loading.memory_limit
        if limit is None:
            return self._loading
        return replace(self._loading, memory_limit=max(0, limit - self._taken()))

    def _taken(self) -> int:
        """Planned bytes of the loaded models; a plan includes one conversation."""
        plans = [(m.session.plan, len(m.slots)) for m in self.models.values() if m.session is not None]
        return sum(plan.total + max(0, count - 1) * plan.conversation for plan, count in plans)


async def to_its_end(work: Callable[..., object], *arguments: object) -> None:
    """Run work in a thread, to its end even when the task is cancelled: two threads may not change a slot."""
    task = asyncio.create_task(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def collect(pieces: AsyncIterator[Piece]) -> Piece:
    """Return the last piece, which has the reply."""
    last = None
    async with aclosing(pieces) as given:  # type: ignore[type-var]  # async generators, all of them
        async for piece in given:
            last = piece
    assert last is not None
    return last
