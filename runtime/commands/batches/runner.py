"""Answers to the requests of a batch: of one model at a time, by as many workers as are asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from palmtop.errors import BundleError, InputError, MemoryPlanError, PalmtopError
from palmtop.runtime.bundle.named_bundles import find_bundle
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.chat.routing import chosen_by_name
from palmtop.runtime.memory.processors import usable_cores
from palmtop.runtime.processor.tool_formats import ToolFormat, calls_of
from palmtop.runtime.providers.assignment import CPU, placement
from palmtop.runtime.serve.wire.api_error import ApiError, api_error
from palmtop.runtime.serve.wire.chat_reply import completion, new_id
from palmtop.runtime.serve.wire.responses import Response
from palmtop.runtime.session import Session, SessionOptions, load_session

from .requests import Request, read_question

Line = dict[str, Any]
"""A line of the output: an answer or an error in OpenAI's form."""
OpenSession = Callable[[Path, SessionOptions], Session]


class Runner:
    """Runner of a batch. Use it in a ``with`` statement, which closes the loaded bundle.

    The workers are threads over one session: they share its weights, and each has a KV cache of its own.

    Args:
        folder: folder that paths of media are relative to.
        model: bundle of all requests; None for the one that each request names.
        timeout_s: longest duration of an answer in seconds.
        loading: options for loading a bundle.
        workers: requests that are answered at the same time.
        open_session: function that loads a bundle.

    Raises:
        InputError: there are several workers, and the decoder runs on a provider that answers one request at a time.
    """

    def __init__(
        self,
        folder: Path,
        model: Path | None,
        timeout_s: float,
        loading: SessionOptions,
        workers: int = 1,
        open_session: OpenSession = load_session,
    ) -> None:
        if workers > 1 and placement(loading.provider).decoder != CPU:
            where = placement(loading.provider).decoder
            raise InputError(f"--workers: found {workers} beside a decoder on {where}, expected 1 there")
        if workers > 1 and loading.threads is None:
            loading = replace(loading, threads=max(1, usable_cores() // workers))
        self.workers = workers
        self._folder, self._model, self._timeout_s = folder, model, timeout_s
        self._loading = replace(loading, conversations=workers)
        self._load = open_session
        self._opened: _Opened | None = None
        self._lock = threading.Lock()

    def answers(self, requests: Sequence[Request]) -> Iterator[Line]:
        """Yield the line of each request's answer, in the order in which they are complete; wrong ones have an error.

        Args:
            requests: requests, those of one model and those with equal beginnings together.

        Raises:
            MemoryPlanError: the model does not fit with so many conversations.
        """
        if self.workers == 1:
            yield from (self.answer(request) for request in requests)
            return
        for _, of_model in groupby(requests, lambda request: self._model or request.model):
            yield from self._together([*of_model])

    def answer(self, request: Request, worker: int = 0) -> Line:
        """Return the line of a request's answer; a wrong request is answered with its error.

        Args:
            request: the request.
            worker: number of the worker whose conversation answers it.

        Raises:
            MemoryPlanError: the model, its conversations or an encoder do not fit; later they may.
        """
        try:
            status, body = 200, self._body(request, worker)
        except MemoryPlanError:
            raise
        except (ApiError, PalmtopError) as error:
            wrong = api_error(error)
            status, body = wrong.status, wrong.body()
        return {
            "id": new_id("batch_req_"),
            "custom_id": request.custom_id,
            "request_sha256": request.sha256,
            "response": {"status_code": status, "request_id": new_id("req_"), "body": body},
            "error": None,
        }

    def close(self) -> None:
        """Free the loaded bundle."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.session.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _together(self, requests: Sequence[Request]) -> Iterator[Line]:
        """Yield answers as they are complete; leaving early stops the answers that are being given."""
        groups = _Groups(requests)
        with suppress(ApiError, BundleError, InputError):  # each request is answered with it
            self._session(self._path(requests[0]))
        with ThreadPoolExecutor(self.workers) as pool:
            running: dict[Future[Line], int] = {}

            def begin(worker: int) -> None:
                if (request := groups.take(worker)) is not None:
                    running[pool.submit(self.answer, request, worker)] = worker

            try:
                for worker in range(self.workers):
                    begin(worker)
                while running:
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        begin(running.pop(done))
                        yield done.result()
            finally:
                if self._opened is not None:
                    for conversation in self._opened.conversations:
                        conversation.cancel()

    def _body(self, request: Request, worker: int) -> dict[str, Any]:
        path = self._path(request)
        name, colon, part = request.model.partition(":")
        question = read_question(request, self._folder, path.name, self._timeout_s)
        opened = self._session(path)
        manifest = opened.session.manifest
        choice = chosen_by_name(manifest, part) if part else None
        if colon and choice is None:
            there = ", ".join(dict.fromkeys([*(a.name for a in manifest.adapters), *manifest.routes]))
            message = f"model: found {request.model!r:.100}, expected {name}, alone or with one of {there} behind ':'"
            raise ApiError(404, message, code="model_not_found", param="model")
        options = question.options
        if (forced := question.tools.grammar(opened.calls, opened.marks)) is not None:
            options = replace(options, grammar=forced)
        tools, adapters = question.tools.tools, question.adapters or choice
        conversation = opened.conversations[worker]
        reply = conversation.respond(question.messages, adapters=adapters, options=options, tools=tools).result()
        if request.url == "/v1/responses":
            return Response(question).whole(reply)
        return completion(question, reply)

    def _path(self, request: Request) -> Path:
        name = request.model.partition(":")[0]
        path = self._model or (find_bundle(Path(name)) if name else None)
        if path is None:
            raise ApiError(400, "model: found none, expected a bundle there, or --model", param="model")
        return path

    def _session(self, path: Path) -> _Opened:
        """Return the session of a bundle; that of another bundle is closed for it."""
        with self._lock:
            if self._opened is None or self._opened.path != path:
                self.close()
                session = self._load(path, self._loading)
                conversations = tuple(session.conversation() for _ in range(self.workers))
                self._opened = _Opened(path, session, conversations, *calls_of(session.bundle))
            return self._opened


@dataclass(frozen=True, slots=True)
class _Opened:
    """A loaded bundle with a conversation for each worker and the format of its tool calls."""

    path: Path
    session: Session
    conversations: tuple[Conversation, ...]
    calls: ToolFormat
    marks: frozenset[str]


class _Groups:
    """Requests of one model. Those with equal beginnings go to one worker, until a worker has none left.

    Args:
        requests: requests, those with equal beginnings together.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._unbegun = deque(deque(group) for _, group in groupby(requests, lambda request: request.beginning))
        self._of_worker: dict[int, deque[Request]] = {}

    def take(self, worker: int) -> Request | None:
        """Return the next request of a worker; None where none is left."""
        if not self._of_worker.get(worker):
            begun = self._of_worker.values()
            group = self._unbegun.popleft() if self._unbegun else max(begun, key=len, default=None)
            if not group:
                return None
            self._of_worker[worker] = group  # another worker's, perhaps: both take from it
        return self._of_worker[worker].popleft()
