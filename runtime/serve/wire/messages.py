"""OpenAI's chat messages, read as text, and media as bytes. No path or address in them is opened."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any

from .api_error import ApiError, refused
from .json_fields import Fields, as_fields

FetchImage = Callable[[str, str], bytes]
"""Function that returns the bytes at an address; the second argument is the field's path, for errors."""

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 4096
PIECE = 1 << 20
"""Characters of base64 decoded at a time, a multiple of 4: Python's lock is held meanwhile."""


def read_chat_messages(value: Any, fetch: FetchImage | None) -> list[dict[str, Any]]:
    """Read the messages of a chat completion.

    Args:
        value: value of the field.
        fetch: function for images at network addresses; None refuses them.

    Raises:
        ApiError: a message or a part has another shape; ``param`` names its path.
    """
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise refused("messages", value, f"a list of 1 to {MAX_MESSAGES} messages")
    messages: list[dict[str, Any]] = []
    calls: set[str] = set()
    for number, item in enumerate(value):
        fields = as_fields(item, f"messages[{number}]")
        message = _message(fields, fetch)
        calls |= {call["id"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool" and message["tool_call_id"] not in calls:
            place = fields.name("tool_call_id")
            raise refused(place, message["tool_call_id"], "the id of a tool call in an earlier assistant message")
        fields.done()
        messages.append(message)
    return messages


def _message(fields: Fields, fetch: FetchImage | None) -> dict[str, Any]:
    role = fields.word("role", *ROLES)
    if role is None:
        raise refused(fields.name("role"), None, f"one of {', '.join(ROLES)}")
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    if (name := fields.text("name")) is not None:
        message["name"] = name
    if role == "tool":
        message["tool_call_id"] = fields.text("tool_call_id")
        if message["tool_call_id"] is None:
            raise refused(fields.name("tool_call_id"), None, "the id of a tool call")
    if role == "assistant":
        for key in ("refusal", "audio", "function_call"):
            fields.only(key)
        fields.pass_over("annotations", "reasoning_content", "parsed")  # as in answers
        calls = fields.items("tool_calls")
        if calls:
            place = fields.name("tool_calls")
            message["tool_calls"] = [read_call(as_fields(c, f"{place}[{i}]")) for i, c in enumerate(calls)]
    content = fields.any("content")
    if content is None and not message.get("tool_calls"):
        raise refused(fields.name("content"), None, "text or a list of parts")
    if isinstance(content, list):
        message["content"] = [
            _part(as_fields(part, f"{fields.name('content')}[{i}]"), role, fetch) for i, part in enumerate(content)
        ]
    elif content is None or isinstance(content, str):
        message["content"] = content
    else:
        raise refused(fields.name("content"), content, "text or a list of parts")
    return message


def read_call(fields: Fields) -> dict[str, Any]:
    """Read a tool call of an earlier answer, its arguments as an object.

    Raises:
        ApiError: the call has another shape.
    """
    fields.word("type", "function")
    identity, function = fields.text("id"), fields.nested("function")
    if identity is None or function is None:
        raise ApiError(400, f"{fields.name('id')}: a tool call has an id and a function", param=fields.name("id"))
    name, text = function.text("name"), function.text("arguments")
    if not name:
        raise refused(function.name("name"), name, "the name of a function")
    function.pass_over("parsed_arguments")  # as OpenAI's client sends an answer back
    function.done()
    fields.pass_over("index")
    fields.done()
    arguments = read_arguments(text or "{}", function.name("arguments"))
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def read_arguments(text: str, place: str) -> dict[str, Any]:
    """Read the arguments of a call from JSON text.

    Raises:
        ApiError: the text is not a JSON object.
    """
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refused(place, text, "JSON") from error
    if not isinstance(arguments, dict):
        raise refused(place, arguments, "a JSON object")
    return arguments


def _part(fields: Fields, role: str, fetch: FetchImage | None) -> dict[str, Any]:
    kinds = ("text", "image_url", "input_audio") if role == "user" else ("text",)
    kind = fields.word("type", *kinds)
    fields.pass_over("cache_control")
    if kind == "text":
        text = fields.text("text")
        if text is None:
            raise refused(fields.name("text"), None, "text")
        part: dict[str, Any] = {"type": "text", "text": text}
    elif kind == "image_url":
        image = fields.nested("image_url")
        if image is None:
            raise refused(fields.name("image_url"), None, "an object with url")
        image.word("detail", "auto", "low", "high")  # an image is always read in full
        part = {"type": "image", "image": image_bytes(image.text("url"), image.name("url"), fetch)}
        image.done()
    elif kind == "input_audio":
        part = {"type": "audio", "audio": audio_bytes(fields.nested("input_audio"), fields.name("input_audio"))}
    else:
        raise refused(fields.name("type"), None, f"one of {', '.join(kinds)}")
    fields.done()
    return part


def image_bytes(url: str | None, place: str, fetch: FetchImage | None) -> bytes:
    """Return an image from a data: address, or from the network if allowed.

    Raises:
        ApiError: the address is neither.
    """
    if url is not None and url[:5].lower() == "data:":
        head, _, body = url.partition(",")
        if not head.lower().endswith(";base64"):
            raise refused(place, head, "a data: address in base64")
        return decode_base64(body, place)
    if url is not None and fetch is not None and url.lower().startswith(("http://", "https://")):
        return fetch(url, place)
    expected = "a data: address in base64" + ("" if fetch is None else ", or one of http or https")
    raise refused(place, url, expected)


def audio_bytes(fields: Fields | None, place: str) -> bytes:
    """Return the sound of an ``input_audio`` part; its format follows from its bytes.

    Raises:
        ApiError: the text is not base64.
    """
    if fields is None:
        raise refused(place, None, "an object with data and format")
    data = fields.text("data")
    fields.text("format")
    fields.done()
    if data is None:
        raise refused(fields.name("data"), None, "a sound in base64")
    return decode_base64(data, fields.name("data"))


def decode_base64(text: str, place: str) -> bytes:
    """Return the bytes of a field in base64.

    Raises:
        ApiError: it is not base64, or empty.
    """
    try:
        if "=" in text.rstrip("="):
            raise binascii.Error("padding before the end")
        pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
        data = b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{place}: {len(text)} characters are not base64 ({error})", param=place) from error
    if not data:
        raise ApiError(400, f"{place}: found nothing, expected base64", param=place)
    return data
