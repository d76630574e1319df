"""``palmtop batch``: many requests from a file, each answered once, over interruptions too."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from palmtop.errors import InputError, PalmtopError
from palmtop.runtime.bundle.named_bundles import BundlePath, find_bundle
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.chat.routing import chosen_by_name
from palmtop.runtime.commands.flags import open_session, session_flags
from palmtop.runtime.commands.progress import progress_bar
from palmtop.runtime.processor.tool_formats import ToolFormat, calls_of
from palmtop.runtime.serve.wire.api_error import ApiError, api_error
from palmtop.runtime.serve.wire.chat_reply import completion, new_id
from palmtop.runtime.serve.wire.responses import Response
from palmtop.runtime.session import Session, SessionOptions

from .requests import Request, answered, by_beginning, read_question, read_requests

EXAMPLES = """
\b
Examples:
  palmtop batch questions.jsonl -o answers.jsonl
  palmtop batch questions.jsonl -o answers.jsonl --model phi4mm-int4
\b
A line of IN (paths are relative to its folder):
  {"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages":
   [{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                 {"type": "text", "text": "What is it?"}]}]}}
"""
FAILED_EXIT = 1


@click.command("batch", epilog=EXAMPLES, short_help="Answer a file of requests.")
@click.argument("requests", metavar="IN", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File of answers, one a line.")
@click.option("--model", type=BundlePath(), help="Bundle for all requests (default: body.model, a path or a name).")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Longest answer, seconds.")
@session_flags
@click.option("--json", "as_json", is_flag=True, help="Print counts as one JSON object.")
def batch_command(
    requests: Path, output: Path, model: Path | None, timeout_s: float, loading: SessionOptions, as_json: bool
) -> None:
    """Answer the requests of IN, a file of OpenAI's batch lines; answers have OpenAI's form too.

    Each answer is written when it is complete. After an interruption or a kill the same command answers the others.
    Requests that begin alike follow one another, so that the beginning is read once. Exit code 1 when a request was
    refused; its line says why.
    """
    asked = read_requests(requests)
    left = _left(asked, output)
    counts = {"requests": len(asked), "answered_before": len(asked) - len(left), "answered": 0, "refused": 0}
    try:
        file = output.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror})") from error
    with file, progress_bar("requests") as progress:
        runner = _Runner(requests.parent, model, timeout_s, loading)
        with runner.models:
            for number, request in enumerate(left, 1):
                answer = runner.answer(request)
                file.write(json.dumps(answer, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
                counts["refused" if answer["response"]["status_code"] != 200 else "answered"] += 1
                if progress is not None:
                    progress(number, len(left))
    if as_json:
        click.echo(json.dumps(counts))
    else:
        before = f", {counts['answered_before']} before" if counts["answered_before"] else ""
        click.echo(f"{output}: {counts['answered']} answered{before}, {counts['refused']} refused")
    if counts["refused"]:
        sys.exit(FAILED_EXIT)


def _left(asked: list[Request], output: Path) -> list[Request]:
    """Return the requests without an answer in the output file, those with equal beginnings together.

    Raises:
        InputError: the file has answers to other requests.
    """
    there = {request.custom_id: request for request in asked}
    done = set()
    for custom_id, sha256 in answered(output):
        request = there.get(custom_id)
        if request is None or request.sha256 != sha256:
            what = "is not in the requests" if request is None else f"of line {request.line} has changed since"
            raise InputError(f"{output}: the request '{custom_id:.60}' {what}, expected another output file")
        done.add(custom_id)
    return by_beginning([request for request in asked if request.custom_id not in done])


@dataclass(frozen=True, slots=True)
class _Opened:
    """A loaded bundle with its conversation and the format of its tool calls."""

    session: Session
    conversation: Conversation
    calls: ToolFormat
    marks: frozenset[str]


class _Runner:
    """Runner of a batch: one session at a time, with one conversation whose cache keeps shared beginnings."""

    def __init__(self, folder: Path, model: Path | None, timeout_s: float, loading: SessionOptions) -> None:
        self.models = ExitStack()
        self._folder, self._model, self._timeout_s, self._loading = folder, model, timeout_s, loading
        self._open: tuple[Path, _Opened] | None = None

    def answer(self, request: Request) -> dict[str, Any]:
        """Return the line of a request's answer; a wrong request is answered with its error."""
        try:
            status, body = 200, self._body(request)
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

    def _body(self, request: Request) -> dict[str, Any]:
        name, colon, part = request.model.partition(":")
        path = self._model or (find_bundle(Path(name)) if name else None)
        if path is None:
            raise ApiError(400, "model: found none, expected a bundle there, or --model", param="model")
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
        reply = opened.conversation.respond(
            question.messages, adapters=question.adapters or choice, options=options, tools=question.tools.tools
        ).result()
        if request.url == "/v1/responses":
            return Response(question).whole(reply)
        return completion(question, reply)

    def _session(self, path: Path) -> _Opened:
        """Return the session of a bundle; that of another bundle is closed for it."""
        if self._open is None or self._open[0] != path:
            self.models.close()
            self._open = None
            session = self.models.enter_context(open_session(path, self._loading))
            self._open = path, _Opened(session, session.conversation(), *calls_of(session.bundle))
        return self._open[1]
