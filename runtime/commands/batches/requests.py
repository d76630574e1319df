"""Requests of a batch: lines of a JSONL file in OpenAI's form, with media as paths, ordered by shared beginnings."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from palmtop.errors import InputError
from palmtop.runtime.bundle.option_checks import reason_of
from palmtop.runtime.serve.wire.api_error import ApiError, refused
from palmtop.runtime.serve.wire.chat_request import Question, read_chat_request
from palmtop.runtime.serve.wire.responses import read_response_request

READERS = {"/v1/chat/completions": read_chat_request, "/v1/responses": read_response_request}
FETCHED = re.compile(r"(data|https?):", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of a batch.

    Attributes:
        line: its number, from 1 on.
        custom_id: name that its answer repeats.
        url: "/v1/chat/completions" or "/v1/responses".
        body: the request's body.
        sha256: hash of url and body, by which a later run recognises its answer.
    """

    line: int
    custom_id: str
    url: str
    body: dict[str, Any]
    sha256: str

    @property
    def model(self) -> str:
        """Name of the model in the body; "" without one."""
        name = self.body.get("model")
        return name if isinstance(name, str) else ""

    @property
    def beginning(self) -> str:
        """Text that is equal for requests whose prompts begin alike: all but the last message, or instructions."""
        messages = self.body.get("messages")
        first = messages[:-1] if isinstance(messages, list) else self.body.get("instructions")
        shared = [self.body.get(key) for key in ("tools", "adapters", "route")]
        return json.dumps([self.model, shared, first], sort_keys=True)


def read_requests(path: Path) -> list[Request]:
    """Read and check all lines of a batch; bodies are checked when they are answered.

    Raises:
        InputError: the file cannot be read, or a line has another shape; names the line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({reason_of(error)})") from error
    found: dict[str, Request] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        request = parse_request(line, number, f"{path}, line {number}")
        if (other := found.get(request.custom_id)) is not None:
            raise InputError(
                f"{path}, line {number}: the custom_id '{request.custom_id:.60}' is that of line {other.line},"
                " expected another one for each line"
            )
        found[request.custom_id] = request
    if not found:
        raise InputError(f"{path}: found no request, expected one JSON object a line")
    return list(found.values())


def parse_request(line: str, number: int, where: str) -> Request:
    """Return the request of one line.

    Args:
        line: the line, a JSON object.
        number: its number, from 1 on.
        where: name of the line in errors.

    Raises:
        InputError: the line has another shape.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error!s:.100})") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: found {type(value).__name__}, expected an object with custom_id, url and body")
    custom_id, url, body = value.get("custom_id"), value.get("url", "/v1/chat/completions"), value.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise InputError(f"{where}: found custom_id {custom_id!r:.60}, expected a text")
    if value.get("method", "POST") != "POST" or url not in READERS:
        found = f"{value.get('method', 'POST')!s:.20} {url!s:.60}"
        raise InputError(f"{where}: found {found}, expected POST {' or '.join(READERS)}")
    if not isinstance(body, dict):
        raise InputError(f"{where}: found no body, expected an object as for {url}")
    digest = hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()
    return Request(line=number, custom_id=custom_id, url=url, body=body, sha256=digest)


def by_beginning(requests: list[Request]) -> list[Request]:
    """Return requests with equal beginnings one after the other, so that a beginning is read once.

    Groups, and the requests in them, keep the order of the file.
    """
    groups: dict[str, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.beginning, []).append(request)
    models: dict[str, list[list[Request]]] = {}
    for group in groups.values():
        models.setdefault(group[0].model, []).append(group)
    return [request for groups_of_model in models.values() for group in groups_of_model for request in group]


def read_question(request: Request, folder: Path, model: str, timeout_s: float) -> Question:
    """Return the question of a request, its media read.

    Args:
        request: the request.
        folder: folder that paths of media are relative to.
        model: name that stands for a missing one.
        timeout_s: longest duration of the answer in seconds.

    Raises:
        ApiError: the body has another shape, or a medium cannot be read.
    """
    body: dict[str, Any] = {"model": model, **_with_media(request.body, folder, "")}
    question = READERS[request.url](body, timeout_s, None)
    if question.streams:
        raise refused("stream", True, "false in a batch")
    return question


def _with_media(value: Any, folder: Path, where: str) -> Any:
    """Return a body in which paths of pictures and sounds are replaced by their bytes, as over HTTP."""
    if isinstance(value, list):
        return [_with_media(item, folder, f"{where}[{number}]") for number, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    kind = value.get("type")
    if kind in ("image", "audio") and isinstance(source := value.get(kind, value.get("path")), str):
        data = base64.b64encode(_bytes(source, folder, f"{where}.{kind}")).decode()
        if kind == "image":
            return {"type": "image_url", "image_url": {"url": f"data:image;base64,{data}"}}
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    if kind in ("image_url", "input_image"):
        image = value.get("image_url")
        url = image.get("url") if isinstance(image, Mapping) else image
        if isinstance(url, str) and not FETCHED.match(url):
            data = base64.b64encode(_bytes(url, folder, f"{where}.image_url")).decode()
            inlined = f"data:image;base64,{data}"
            return {**value, "image_url": {**image, "url": inlined} if isinstance(image, Mapping) else inlined}
    if kind == "input_audio" and isinstance(sound := value.get("input_audio"), Mapping):
        source = sound.get("path", sound.get("url"))
        if isinstance(source, str):
            data = base64.b64encode(_bytes(source, folder, f"{where}.input_audio")).decode()
            return {**value, "input_audio": {"data": data, "format": sound.get("format", "wav")}}
    return {key: _with_media(item, folder, f"{where}.{key}" if where else key) for key, item in value.items()}


def _bytes(source: str, folder: Path, where: str) -> bytes:
    path = Path(unquote(urlsplit(source).path) if source.startswith("file://") else source)
    try:
        return (folder / path).read_bytes()
    except (OSError, ValueError) as error:
        raise ApiError(400, f"{where}: {source:.100}: {reason_of(error)}, expected a file", param=where) from error


def answered(path: Path) -> Iterator[tuple[str, str]]:
    """Yield custom_id and request hash of the answers in a file; an incomplete last line is cut off.

    Raises:
        InputError: the file cannot be read or written, or has other lines.
    """
    try:
        data = path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):  # a run was killed while it wrote
            with path.open("r+b") as file:
                file.truncate(end)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(data[:end].splitlines(), 1):
        try:
            value = json.loads(line)
            yield value["custom_id"], value["request_sha256"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: is no answer of palmtop batch, expected its file or none"
            ) from error


def unanswered(asked: list[Request], output: Path) -> list[Request]:
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
