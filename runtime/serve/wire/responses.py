"""``POST /v1/responses``, the part that OpenAI's clients use by default. Nothing is stored.

The whole dialogue is in each request. The input becomes messages of a chat completion; the answer becomes output items,
or the events of a stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palmtop.runtime.chat.reply import Piece, Reply
from palmtop.runtime.decoding.grammar import Grammar

from .api_error import ApiError, refused
from .chat_reply import new_id, told, tool_calls
from .chat_request import MAX_TOKENS, Question, read_adapters, read_client, read_model, read_options, read_schema
from .json_fields import Fields, as_fields
from .messages import MAX_MESSAGES, FetchImage, audio_bytes, image_bytes, read_arguments
from .tools import HeldCalls, read_tools

ROLES = ("user", "assistant", "system", "developer")


def read_response_request(body: Mapping[str, Any], timeout_s: float, fetch: FetchImage | None) -> Question:
    """Read and check a request.

    Raises:
        ApiError: a field has another shape, or is not offered by this server.
    """
    fields = Fields(body)
    model = read_model(fields)
    messages = _input(fields.any("input"), fetch)
    if instructions := fields.text("instructions"):
        messages.insert(0, {"role": "system", "content": instructions})
    tools = read_tools(fields, is_flat=True)
    grammar = None
    if (text := fields.nested("text")) is not None:
        grammar = _form(text.nested("format"))
        text.only("verbosity", "medium")
        text.done()
    if grammar is not None and tools.forced:
        raise ApiError(400, "text.format: stands beside a tool_choice that forces a call", param="text.format")
    streams = fields.flag("stream")
    longest = fields.whole("max_output_tokens", 1, MAX_TOKENS)
    for key, *neutral in (
        ("background", False),
        ("previous_response_id",),
        ("conversation",),
        ("prompt",),
        ("include", []),
        ("reasoning", {}),
        ("truncation", "disabled"),
        ("top_logprobs", 0),
    ):
        fields.only(key, *neutral)
    fields.pass_over("stream_options", "max_tool_calls")
    question = Question(
        model=model,
        messages=messages,
        options=read_options(fields, longest, grammar, timeout_s),
        tools=tools,
        adapters=read_adapters(fields),
        client=read_client(fields),
        streams=streams,
        echoed={
            "instructions": instructions,
            "tool_choice": body.get("tool_choice") or "auto",
            "text": {"format": (body.get("text") or {}).get("format") or {"type": "text"}},
            "metadata": body.get("metadata") or {},
        },
    )
    fields.done()
    return question


def _form(fields: Fields | None) -> Grammar | None:
    if fields is None:
        return None
    kind = fields.word("type", "text", "json_object", "json_schema")
    if kind == "json_schema":
        return read_schema(fields)
    fields.done()
    return Grammar.json_schema({"type": "object"}) if kind == "json_object" else None


def _input(value: Any, fetch: FetchImage | None) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise refused("input", value, f"text, or a list of 1 to {MAX_MESSAGES} items")
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(value):
        fields = as_fields(item, f"input[{number}]")
        kind = fields.word("type", "message", "function_call", "function_call_output") or "message"
        fields.pass_over("id", "status")
        if kind == "function_call":
            call = _call(fields)
            if messages and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            called, output = fields.text("call_id"), fields.text("output")
            if called not in {c["id"] for message in messages for c in message.get("tool_calls", ())}:
                raise refused(fields.name("call_id"), called, "the call_id of an earlier function_call")
            messages.append({"role": "tool", "tool_call_id": called, "content": output or ""})
        else:
            messages.append(_message(fields, fetch))
        fields.done()
    return messages


def _call(fields: Fields) -> dict[str, Any]:
    called, name, text = fields.text("call_id"), fields.text("name"), fields.text("arguments")
    if not called or not name:
        raise refused(fields.name("call_id"), called, "a call_id, beside a name")
    arguments = read_arguments(text or "{}", fields.name("arguments"))
    return {"id": called, "type": "function", "function": {"name": name, "arguments": arguments}}


def _message(fields: Fields, fetch: FetchImage | None) -> dict[str, Any]:
    role = fields.word("role", *ROLES)
    content = fields.any("content")
    fields.pass_over("phase")
    if role is None:
        raise refused(fields.name("role"), None, f"one of {', '.join(ROLES)}")
    if isinstance(content, list):
        place = fields.name("content")
        content = [_part(as_fields(part, f"{place}[{i}]"), role, fetch) for i, part in enumerate(content)]
    elif not isinstance(content, str):
        raise refused(fields.name("content"), content, "text or a list of parts")
    return {"role": "system" if role == "developer" else role, "content": content}


def _part(fields: Fields, role: str, fetch: FetchImage | None) -> dict[str, Any]:
    kinds = ("input_text", "input_image", "input_audio") if role == "user" else ("input_text", "output_text")
    kind = fields.word("type", *kinds)
    if kind in ("input_text", "output_text"):
        text = fields.text("text")
        fields.pass_over("annotations", "logprobs")
        if text is None:
            raise refused(fields.name("text"), None, "text")
        part: dict[str, Any] = {"type": "text", "text": text}
    elif kind == "input_image":
        fields.word("detail", "auto", "low", "high")
        fields.only("file_id")
        place = fields.name("image_url")
        part = {"type": "image", "image": image_bytes(fields.text("image_url"), place, fetch)}
    elif kind == "input_audio":
        part = {"type": "audio", "audio": audio_bytes(fields.nested("input_audio"), fields.name("input_audio"))}
    else:
        raise refused(fields.name("type"), None, f"one of {', '.join(kinds)}")
    fields.done()
    return part


class Response:
    """A response while it is generated: events, and the whole object at the end."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._identity = new_id("resp_")
        self._message = new_id("msg_")
        self._created = int(time.time())
        self._held = HeldCalls()
        self._number = 0
        self._has_text = False

    def whole(self, reply: Reply) -> dict[str, Any]:
        """Return the finished response."""
        calls = [self._call_item(call) for call in tool_calls(reply, self._question.tools)]
        if calls:
            held = HeldCalls()
            held.feed(reply.text)
            text = held.shown.strip()
        else:
            text = reply.text
        return self._object(reply, self._items(text, calls, _status(reply, calls), has_text=bool(text) or not calls))

    def begin(self) -> Iterator[dict[str, Any]]:
        """Return the events before the first piece."""
        yield self._event("response.created", response=self._object(None, []))
        yield self._event("response.in_progress", response=self._object(None, []))

    def of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Return the events of one piece."""
        if piece.kind == "answer" and piece.text:
            text = self._held.feed(piece.text) if self._question.tools.tools else self._show(piece.text)
            yield from self._delta(text)
        if piece.reply is not None:
            yield from self._end(piece.reply)

    def _show(self, text: str) -> str:
        self._held.shown += text
        return text

    def _delta(self, text: str) -> Iterator[dict[str, Any]]:
        if not text:
            return
        place = {"item_id": self._message, "output_index": 0, "content_index": 0}
        if not self._has_text:
            self._has_text = True
            item = {**self._message_item("", "in_progress"), "content": []}
            yield self._event("response.output_item.added", output_index=0, item=item)
            yield self._event("response.content_part.added", **place, part=_text_part(""))
        yield self._event("response.output_text.delta", **place, delta=text, logprobs=[])

    def _end(self, reply: Reply) -> Iterator[dict[str, Any]]:
        calls = [self._call_item(call) for call in tool_calls(reply, self._question.tools)]
        if self._question.tools.tools:
            yield from self._delta(self._held.rest(has_calls=bool(calls)))
        if not self._has_text and not calls:  # an empty answer is a message too
            place = {"item_id": self._message, "output_index": 0, "content_index": 0}
            self._has_text = True
            item = {**self._message_item("", "in_progress"), "content": []}
            yield self._event("response.output_item.added", output_index=0, item=item)
            yield self._event("response.content_part.added", **place, part=_text_part(""))
        text, status = self._held.shown, _status(reply, calls)
        if self._has_text:
            place = {"item_id": self._message, "output_index": 0, "content_index": 0}
            yield self._event("response.output_text.done", **place, text=text, logprobs=[])
            yield self._event("response.content_part.done", **place, part=_text_part(text))
            yield self._event("response.output_item.done", output_index=0, item=self._message_item(text, status))
        for index, call in enumerate(calls, int(self._has_text)):
            begun = {**call, "arguments": "", "status": "in_progress"}
            yield self._event("response.output_item.added", output_index=index, item=begun)
            place = {"item_id": call["id"], "output_index": index}
            yield self._event("response.function_call_arguments.delta", **place, delta=call["arguments"])
            name, arguments = call["name"], call["arguments"]
            yield self._event("response.function_call_arguments.done", **place, name=name, arguments=arguments)
            yield self._event("response.output_item.done", output_index=index, item=call)
        response = self._object(reply, self._items(text, calls, status, has_text=self._has_text))
        yield self._event(f"response.{response['status']}", response=response)

    def _items(self, text: str, calls: list[dict[str, Any]], status: str, *, has_text: bool) -> list[dict[str, Any]]:
        return [*([self._message_item(text, status)] if has_text else []), *calls]

    def _message_item(self, text: str, status: str) -> dict[str, Any]:
        content = [_text_part(text)]
        return {"id": self._message, "type": "message", "role": "assistant", "status": status, "content": content}

    def _call_item(self, call: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": new_id("fc_"),
            "type": "function_call",
            "status": "completed",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
        }

    def _object(self, reply: Reply | None, output: list[dict[str, Any]]) -> dict[str, Any]:
        options, question = self._question.options, self._question
        status = _status(reply, [item for item in output if item["type"] == "function_call"])
        response: dict[str, Any] = {
            "id": self._identity,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "max_output_tokens": options.max_tokens,
            "model": question.model,
            "output": output,
            "parallel_tool_calls": question.tools.most_calls > 1,
            "previous_response_id": None,
            "store": False,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "tools": [{"type": "function", "strict": True, **tool} for tool in question.tools.tools],
            "truncation": "disabled",
            "background": False,
            "reasoning": {"effort": None, "summary": None},
            "usage": None,
            **question.echoed,
        }
        if reply is not None:
            cost = reply.usage
            response["usage"] = {
                "input_tokens": cost.prompt_tokens,
                "input_tokens_details": {"cached_tokens": cost.cached_tokens},
                "output_tokens": cost.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": cost.prompt_tokens + cost.completion_tokens,
            }
            response["palmtop"] = told(reply)
        return response

    def _event(self, kind: str, **values: Any) -> dict[str, Any]:
        event = {"type": kind, "sequence_number": self._number, **values}
        self._number += 1
        return event


def _status(reply: Reply | None, calls: Sequence[object]) -> str:
    """Return the status of a response and of its message; that of an answer with calls is "completed"."""
    if reply is None:
        return "in_progress"
    return "incomplete" if reply.was_cut and not calls else "completed"


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
