"""ASGI application of the server: its routes and their handlers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from palmtop.runtime.chat.reply import Piece, Reply
from palmtop.runtime.serve.wire.api_error import ApiError
from palmtop.runtime.serve.wire.chat_reply import Chunks, completion, new_id
from palmtop.runtime.serve.wire.chat_request import Question, read_chat_request
from palmtop.runtime.serve.wire.json_fields import read_json
from palmtop.runtime.serve.wire.messages import FetchImage
from palmtop.runtime.serve.wire.remote_media import fetch_image
from palmtop.runtime.serve.wire.responses import Response as ResponseObject
from palmtop.runtime.serve.wire.responses import read_response_request

from . import transcription
from .endpoint import Endpoint, EventStream, Handler, address, error_response
from .guard import HEADERS, Bodies, Guard
from .metrics import Metrics
from .models import Models, collect
from .page import page_response
from .session_store import session_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Options of a server.

    Attributes:
        guard: checks of requests.
        max_body: most bytes of a request.
        timeout_s: longest duration of an answer in seconds.
        allow_remote_media: whether images at network addresses are fetched.
    """

    guard: Guard
    max_body: int = 32 << 20
    timeout_s: float = 600.0
    allow_remote_media: bool = False


class Service:
    """Handlers of one server's routes.

    Args:
        models: models of the server.
        options: options of the server.
    """

    def __init__(self, models: Models, options: ServeOptions) -> None:
        self.models = models
        self.options = options
        self.metrics = Metrics()
        self.bodies = Bodies(options.max_body)
        self._fetch: FetchImage | None = fetch_image if options.allow_remote_media else None

    def app(self) -> Starlette:
        """Return the ASGI application; it frees the models when it is shut down."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await self.models.close()

        posts = {
            "/v1/chat/completions": self.chat,
            "/v1/responses": self.responses,
            "/v1/audio/transcriptions": self.transcriptions,
        }
        gets = {
            "/": self.page,
            "/health": self.health,
            "/metrics": self.show_metrics,
            "/v1/models": self.list_models,
            "/v1/models/{name:path}": self.show_model,
        }
        routes = [self._route("POST", path, handler) for path, handler in posts.items()]
        routes += [self._route("GET", path, handler) for path, handler in gets.items()]
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: self.no_route})

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        endpoint = Endpoint(self.options.guard, self.bodies, self.metrics, handler, path)
        return Route(path, endpoint, methods=[method])

    async def no_route(self, request: Request, error: Exception) -> Response:
        """Answer an unknown path or method, with OpenAI's error object."""
        assert isinstance(error, HTTPException)
        try:
            self.options.guard.check(request)
        except ApiError as refusal:
            return error_response(refusal)
        is_unknown = error.status_code == 404
        message = "found no such path here" if is_unknown else f"the path does not take {request.method:.20}"
        answer = ApiError(error.status_code, message, code="not_found" if is_unknown else None)
        answer.headers.update({**HEADERS, "x-request-id": new_id("req_"), **(error.headers or {})})
        self.metrics.add("palmtop_requests_total", path="other", status=str(error.status_code))
        return error_response(answer)

    async def page(self, _: Request) -> Response:
        """Answer with the page."""
        return page_response()

    async def health(self, _: Request) -> Response:
        """Answer that the server is running."""
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, _: Request) -> Response:
        """Answer with the counters for Prometheus."""
        return PlainTextResponse(self.metrics.text(self.models), media_type="text/plain; version=0.0.4")

    async def list_models(self, _: Request) -> Response:
        """Answer with every name that requests may use."""
        names = [name for model in self.models.models.values() for name in model.names()]
        return JSONResponse({"object": "list", "data": [self.models.listed(name) for name in names]})

    async def show_model(self, request: Request) -> Response:
        """Answer with one model."""
        return JSONResponse(self.models.listed(request.path_params["name"]))

    async def chat(self, request: Request) -> Response:
        """Answer with a chat completion."""
        body = await request_json(request)
        question = await asyncio.to_thread(read_chat_request, body, self.options.timeout_s, self._fetch)
        question = replace(question, session=session_of(request.headers))
        if not question.streams:
            reply = await self._reply(request, question)
            return JSONResponse(completion(question, reply))
        chunks = Chunks(question)

        async def events(pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
            async for piece in pieces:
                for chunk in chunks.of(piece):
                    yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"

        return await self._stream(request, question, events)

    async def responses(self, request: Request) -> Response:
        """Answer with a response of the Responses API."""
        body = await request_json(request)
        question = await asyncio.to_thread(read_response_request, body, self.options.timeout_s, self._fetch)
        question = replace(question, session=session_of(request.headers))
        response = ResponseObject(question)
        if not question.streams:
            return JSONResponse(response.whole(await self._reply(request, question)))

        async def events(pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
            for event in response.begin():
                yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
            async for piece in pieces:
                for event in response.of(piece):
                    yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"

        return await self._stream(request, question, events)

    async def transcriptions(self, request: Request) -> Response:
        """Answer with the text of a recording."""
        recording = await transcription.read_recording(request, self.options.timeout_s)
        self._note(request, recording.model)
        parts = await transcription.segments(self.models, recording, address(request))
        for part in parts:
            self._count(request, recording.model, part.reply)
        shown = transcription.shown(recording, parts)
        return PlainTextResponse(shown) if isinstance(shown, str) else JSONResponse(shown)

    async def _reply(self, request: Request, question: Question) -> Reply:
        self._note(request, question.model)
        last = await collect(self.models.pieces(question, f"{address(request)} {question.client}"))
        assert last.reply is not None
        self._count(request, question.model, last.reply)
        return last.reply

    async def _stream(
        self, request: Request, question: Question, events: Callable[[AsyncIterator[Piece]], AsyncIterator[str]]
    ) -> Response:
        """Return a stream of events after the first piece; until then a request can be refused with a status."""
        self._note(request, question.model)
        pieces = self._ahead(request, question)
        try:
            first = await anext(pieces)
        except BaseException:
            await pieces.aclose()  # type: ignore[attr-defined]
            raise

        async def all_pieces() -> AsyncIterator[Piece]:
            yield first
            async for piece in pieces:
                yield piece

        return EventStream(events(all_pieces()), pieces)

    async def _ahead(self, request: Request, question: Question) -> AsyncIterator[Piece]:
        """Yield pieces read ahead of the client, so that a slow one does not hold the model's turn."""
        given: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()

        async def run() -> None:
            try:
                client = f"{address(request)} {question.client}"
                async with aclosing(self.models.pieces(question, client)) as pieces:  # type: ignore[type-var]
                    async for piece in pieces:
                        if piece.reply is not None:
                            self._count(request, question.model, piece.reply)
                        given.put_nowait(piece)
                given.put_nowait(None)
            except Exception as error:
                given.put_nowait(error)

        task = asyncio.create_task(run())
        try:
            while (item := await given.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            task.cancel()

    def _note(self, request: Request, name: str) -> None:
        """Put a model's name into the log's line; unknown names are not logged.

        Raises:
            ApiError: there is no such model (404).
        """
        self.models.find(name)
        request.state.model = name

    def _count(self, request: Request, name: str, reply: Reply) -> None:
        model, _ = self.models.find(name)
        self.metrics.answered(model.name, reply)
        cost = reply.usage
        request.state.cost = f"{cost.prompt_tokens}+{cost.completion_tokens} tokens, {cost.cached_tokens} cached"


async def request_json(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request.

    Raises:
        ApiError: the body is not a JSON object.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Content-Type: expected application/json", code="unsupported_media_type")
    return await asyncio.to_thread(read_json, await request.body())
