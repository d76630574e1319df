"""Handling of one request: checks, body, work while the client is connected, errors, log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from palmtop.errors import PalmtopError
from palmtop.runtime.chat.reply import Piece
from palmtop.runtime.serve.wire.api_error import ApiError, api_error
from palmtop.runtime.serve.wire.chat_reply import new_id

from .guard import HEADERS, Bodies, ClientGoneError, Guard
from .metrics import Metrics

logger = logging.getLogger(__name__)
access = logging.getLogger("palmtop.serve.access")

STALLED_S = 60.0
"""Seconds after which a client that reads nothing of its answer counts as disconnected."""
Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """ASGI endpoint of one path. The handler is cancelled when its client disconnects.

    Args:
        guard: checks the request before its body is read.
        bodies: reader of bodies.
        metrics: counters of outcomes.
        handler: handler of the request.
        path: path in the log; the client's own text is never logged.
    """

    def __init__(self, guard: Guard, bodies: Bodies, metrics: Metrics, handler: Handler, path: str) -> None:
        self._guard = guard
        self._bodies = bodies
        self._metrics = metrics
        self._handler = handler
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        identity = new_id("req_")
        started = monotonic()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _with_headers(message["headers"], identity)}
            async with asyncio.timeout(STALLED_S):  # ``wait_for`` of Python 3.11 may swallow a cancellation
                await send(message)

        try:
            self._guard.check(request)
            async with self._bodies.read(request, receive) as body:
                await while_connected(receive, self._answer(scope, body, request.state, sending))
        except (ClientGoneError, TimeoutError):
            pass
        except Exception as error:
            if status == 0:
                await self._fail(error, scope, receive, sending)
            else:
                self._log_bug(error)
        finally:
            self._done(request, identity, status, monotonic() - started)

    async def _answer(self, scope: Scope, body: bytes, state: Any, send: Send) -> None:
        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        request = Request(scope, again)
        request._state = state  # notes of the handler go into the log's line
        try:
            response = await self._handler(request)
        except Exception as error:
            if isinstance(error, HTTPException):  # a form that cannot be parsed
                error = ApiError(error.status_code, f"body: {error.detail:.200}", code="invalid_form")
            self._log_bug(error)
            response = error_response(api_error(error))
        await response(scope, again, send)

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        self._log_bug(error)
        response = error_response(api_error(error))
        response.headers["connection"] = "close"  # the rest of the body is not read
        with suppress(OSError, TimeoutError):
            await response(scope, receive, send)

    def _log_bug(self, error: Exception) -> None:
        if not isinstance(error, (ApiError, PalmtopError)):
            logger.error("%s: %s", self._path, type(error).__name__, exc_info=error)

    def _done(self, request: Request, identity: str, status: int, seconds: float) -> None:
        metrics = self._metrics
        if status:
            metrics.add("palmtop_requests_total", path=self._path, status=str(status))
        else:
            metrics.add("palmtop_requests_aborted_total", path=self._path)
        notes = [str(getattr(request.state, name, "")) for name in ("model", "cost")]
        who, told = address(request), ascii(", ".join(note for note in notes if note) or "-")[1:-1][:120]
        where = f"{who} {request.method} {self._path} {status or 'gone'}"
        access.info("%s %.3f s %s %s", where, seconds, told, identity)


async def while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Run a coroutine for a client, and stop it when the client disconnects.

    Raises:
        ClientGoneError: the client disconnected.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        task.result()
    finally:
        for one in (watch, task):
            one.cancel()
        await asyncio.wait({task, watch})


class EventStream(Response):
    """Response of server-sent events.

    Args:
        events: events as text.
        pieces: iterator that is closed at the end, which ends the model's turn.
    """

    def __init__(self, events: AsyncIterator[str], pieces: AsyncIterator[Piece]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"
        self._events = events
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; an error among them becomes the last one."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for event in self._events:
                    await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            except (PalmtopError, ApiError) as error:
                text = f"event: error\ndata: {json.dumps(api_error(error).body())}\n\n"
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._pieces.aclose()  # type: ignore[attr-defined]


def error_response(error: ApiError) -> Response:
    """Return an error response in OpenAI's format."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


def address(request: Request) -> str:
    """Return the client's address, without its port."""
    return request.client.host if request.client is not None else "local"


def _with_headers(headers: list[tuple[bytes, bytes]], identity: str) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in headers}
    own = {**HEADERS, "x-request-id": identity}
    return [*headers, *((k.encode(), v.encode()) for k, v in own.items() if k.encode() not in there)]
