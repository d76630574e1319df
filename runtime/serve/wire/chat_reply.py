"""Answers in the form of chat completions, whole and in chunks."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from palmtop.runtime.chat.reply import Piece, Reply, TokenLogprob, ToolCall
from palmtop.runtime.chat.tools import parse_calls

from .chat_request import Question
from .tools import HeldCalls, ToolUse, text_beside_calls

SMALLEST_LOGPROB = -9999.0
"""Value of OpenAI's interface for a token without a probability; JSON has no infinity."""


def new_id(prefix: str) -> str:
    """Return an identifier that cannot be guessed."""
    return f"{prefix}{secrets.token_hex(12)}"


def finish_reason(reply: Reply, calls: Sequence[object]) -> str:
    """Return OpenAI's name for the end of an answer; without ``calls`` it is not "tool_calls"."""
    if calls:
        return "tool_calls"
    return "length" if reply.was_cut else "stop"


def usage(reply: Reply) -> dict[str, Any]:
    """Return the token counts of an answer."""
    cost = reply.usage
    return {
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "total_tokens": cost.prompt_tokens + cost.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cost.cached_tokens},
    }


def told(reply: Reply) -> dict[str, Any]:
    """Return palmtop's own field ``palmtop`` of answers and last chunks: adapters and speed."""
    cost = reply.usage
    return {
        "mode": reply.mode,
        "adapters": reply.adapters,
        "ended_by": reply.ended_by,
        "unfinished": reply.unfinished,
        "ttft_s": round(cost.ttft_s, 4),
        "tokens_per_s": round(cost.tokens_per_s, 2),
        "encode_s": round(cost.encode_s, 4),
        "media_rows": cost.media_rows,
        "cached_tokens": cost.cached_tokens,
        "reprefilled": cost.reprefilled,
    }


def tool_calls(reply: Reply, use: ToolUse) -> list[dict[str, Any]]:
    """Return calls in an answer, arguments as JSON text; empty if the request has no tools."""
    calls: Sequence[ToolCall] = reply.tool_calls if use.tools else ()
    if use.forced and not calls and not reply.was_cut:
        calls = tuple(parse_calls(reply.text))  # a tokenizer without the marks of calls
    return [
        {
            "id": new_id("call_"),
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in calls
    ]


def logprobs(question: Question, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """Return log-probabilities of tokens; None unless the request asks for them."""
    if question.options.top_logprobs is None:
        return None
    return {"content": [{**_token(t), "top_logprobs": [_token(o) for o in t.top]} for t in tokens], "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    is_whole = "\ufffd" not in token.text  # otherwise a part of a character
    return {
        "token": token.text,
        "logprob": max(token.logprob, SMALLEST_LOGPROB),
        "bytes": list(token.text.encode()) if is_whole else None,
    }


def completion(question: Question, reply: Reply) -> dict[str, Any]:
    """Return a whole answer: a ``chat.completion``."""
    calls = tool_calls(reply, question.tools)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text_beside_calls(reply.text, calls),
        "refusal": None,
    }
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs(question, reply.logprobs),
        "finish_reason": finish_reason(reply, calls),
    }
    return {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": question.model,
        "choices": [choice],
        "usage": usage(reply),
        "system_fingerprint": None,
        "palmtop": told(reply),
    }


class Chunks:
    """Chunks of a streamed answer: ``chat.completion.chunk`` objects."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._identity = new_id("chatcmpl-")
        self._created = int(time.time())
        self._held = HeldCalls() if question.tools.tools else None
        self._begun = False

    def of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Return the chunks of one piece."""
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        if piece.kind == "thinking":
            yield self._chunk({"reasoning_content": piece.text})
        elif text := piece.text if self._held is None else self._held.feed(piece.text):
            yield self._chunk({"content": text})
        if piece.reply is not None:
            yield from self._end(piece.reply)

    def _end(self, reply: Reply) -> Iterator[dict[str, Any]]:
        calls = tool_calls(reply, self._question.tools)
        if self._held is not None and (rest := self._held.rest(has_calls=bool(calls))):
            yield self._chunk({"content": rest})
        for index, call in enumerate(calls):
            yield self._chunk({"tool_calls": [{"index": index, **call}]})
        last = self._chunk({}, finish_reason(reply, calls))
        last["choices"][0]["logprobs"] = logprobs(self._question, reply.logprobs)
        yield {**last, "palmtop": told(reply)}
        if self._question.wants_usage:
            yield {**self._frame(), "choices": [], "usage": usage(reply)}

    def _frame(self) -> dict[str, Any]:
        return {
            "id": self._identity,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._question.model,
            "system_fingerprint": None,
        }

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        frame = {**self._frame(), "choices": [choice]}
        return {**frame, "usage": None} if self._question.wants_usage else frame
