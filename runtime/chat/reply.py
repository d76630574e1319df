"""Pieces of a streamed answer and the complete reply. Values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from palmtop.runtime.decoding.reasons import EndReason, FinishReason, ReprefillReason

PieceKind = Literal["answer", "thinking"]
Unfinished = Literal["form", "thinking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts and timings of one answer.

    Attributes:
        prompt_tokens: tokens of the prompt, media rows included.
        cached_tokens: tokens of the prompt that were in the KV cache already.
        media_rows: tokens of the prompt that are feature rows of images or sounds.
        completion_tokens: tokens sampled, without the end token.
        reprefilled: reason why the cache was dropped and the sequence read again: "adapters" when the route changed,
            "rope" when the LongRoPE boundary was crossed; None if it was not.
        trimmed_messages: number of the oldest messages left out because the context was full (``on_overflow="trim"``).
        encode_s: seconds for decoding and encoding of images and sounds; part of ``ttft_s``.
        ttft_s: seconds from the call to the first token: media, prefill and one step.
        tokens_per_s: tokens per second after the first token; 0 with fewer than two.
        peak_rss_bytes: highest resident memory of the process so far; None where the system does not report it.
        drafted_tokens: draft tokens that were read together with a sampled token.
        accepted_tokens: draft tokens that were sampled, and needed no step of their own.
        draft_s: seconds of the steps that read draft tokens.
    """

    prompt_tokens: int
    cached_tokens: int
    media_rows: int
    completion_tokens: int
    reprefilled: ReprefillReason | None
    trimmed_messages: int = 0
    encode_s: float = 0.0
    ttft_s: float
    tokens_per_s: float
    peak_rss_bytes: int | None
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draft_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a function that the model requests.

    Attributes:
        name: name of the function, as given in ``tools``.
        arguments: values by parameter name; plain JSON types.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Log-probability of one token of an answer, under the model's own distribution.

    Attributes:
        text: text of the token alone.
        token_id: its id.
        logprob: natural logarithm of its probability.
        top: most probable tokens at this place, without ``top`` of their own.
    """

    text: str
    token_id: int
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A complete answer with its token ids, finish reason and usage; ``str()`` of it is its text.

    Attributes:
        text: the text, without the stop string and without thinking.
        token_ids: sampled ids, without the end token.
        ended_by: reason why the answer ended, in detail; ``finish_reason`` has OpenAI's word for it.
        mode: "text", "image", "audio" or "image+audio", by the media of the conversation.
        adapters: weights of the active adapters by name.
        tool_calls: functions that the model asks to be called, in order.
        usage: token counts and timings.
        thinking: text of the model's thinking before the answer; empty without thinking.
        unfinished: part that was cut off when the answer ended: "form" if the text is an incomplete match of the
            grammar, "thinking" if the answer had not begun; None for a complete answer.
        logprobs: log-probabilities of ``token_ids``; empty unless ``options.top_logprobs`` is set.
    """

    text: str
    token_ids: tuple[int, ...] = field(repr=False)
    ended_by: EndReason
    mode: str
    adapters: dict[str, float]
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage
    thinking: str = ""
    unfinished: Unfinished | None = None
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text

    @property
    def finish_reason(self) -> FinishReason:
        """OpenAI's word for the end of the answer.

        "tool_calls" if the model asks for calls, "stop" for its end token or a stop string, "cancelled" after
        ``cancel``, "length" for every limit: tokens, context, time.
        """
        if self.ended_by == "cancelled":
            return "cancelled"
        if self.tool_calls:
            return "tool_calls"
        return "length" if self.was_cut else "stop"

    @property
    def message(self) -> dict[str, Any]:
        """The answer as an assistant's message, to be added to a list of messages."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [{"type": "function", "function": asdict(call)} for call in self.tool_calls]
        return message

    @property
    def was_cut(self) -> bool:
        """Whether the answer was ended by something other than the model or a stop string."""
        return self.ended_by not in ("eos", "stop_string")

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as plain JSON types."""
        calls = [asdict(call) for call in self.tool_calls]
        changed = {"finish_reason": self.finish_reason, "token_ids": list(self.token_ids), "tool_calls": calls}
        return {**asdict(self), **changed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of an answer, complete in UTF-8; the last one may be empty and has the whole reply.

    ``str()`` of it is its text.

    Attributes:
        text: text to show.
        reply: the complete reply in the last piece, otherwise None.
        kind: "answer", or "thinking" for a reasoning model's thinking.
    """

    text: str
    reply: Reply | None = None
    kind: PieceKind = "answer"

    def __str__(self) -> str:
        return self.text
