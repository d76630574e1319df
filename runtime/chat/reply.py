"""What comes back from a model: pieces while it speaks, the whole reply when it is done. Values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from palmtop.runtime.decoding.reasons import FinishReason, ReprefillReason

PieceKind = Literal["answer", "thinking"]
Unfinished = Literal["form", "thinking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an answer cost.

    Attributes:
        prompt_tokens: tokens of the prompt, media rows counted.
        cached_tokens: how many of them were in the KV cache already.
        media_rows: how many of the prompt's tokens are rows of images or sounds.
        completion_tokens: tokens sampled, the end token not counted.
        reprefilled: why the cache was thrown away and the sequence read again: "adapters" when the route
            changed, "rope" when the LongRoPE boundary was crossed; None when it was not.
        trimmed_messages: oldest messages left out because the context was full (``on_overflow="trim"``).
        encode_s: reading and encoding of images and sounds; part of ``ttft_s``.
        ttft_s: from the call to the first token: media, prefill and one step.
        tokens_per_s: after the first token; 0 with fewer than two.
        peak_rss_bytes: highest resident memory of the process so far; None where the system does not tell.
        drafted_tokens: guesses at what follows that were read together with a sampled token (speculation).
        accepted_tokens: those of them that were sampled then, and needed no step of their own.
        draft_s: seconds of the steps that read guesses.
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
    """A function that the model asks to be called.

    Attributes:
        name: of the function, as given in ``tools``.
        arguments: by name; plain JSON types.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer.

    Attributes:
        text: as streamed, without the stop string and without the thinking.
        token_ids: what was sampled, the end token left out.
        finish_reason: why it ended.
        mode: "text", "image", "audio" or "image+audio": what the conversation holds so far.
        adapters: name to weight of the adapters that were on.
        tool_calls: functions that the model asks to be called, in order.
        usage: cost and timings.
        thinking: what the model thought aloud before it answered; empty where it did not.
        unfinished: what was cut off by the end that ``finish_reason`` names: "form" where the text is not all that
            the grammar asks for, "thinking" where the answer had not begun; None for an answer that can be used.
    """

    text: str
    token_ids: tuple[int, ...] = field(repr=False)
    finish_reason: FinishReason
    mode: str
    adapters: dict[str, float]
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage
    thinking: str = ""
    unfinished: Unfinished | None = None

    @property
    def was_cut(self) -> bool:
        """Whether something else than the model or a stop string ended the answer."""
        return self.finish_reason not in ("eos", "stop_string")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        calls = [asdict(call) for call in self.tool_calls]
        return {**asdict(self), "token_ids": list(self.token_ids), "tool_calls": calls}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of an answer, complete in UTF-8; the last one may be empty and carries the whole reply.

    Attributes:
        text: to be shown.
        reply: in the last piece.
        kind: "thinking" for what a reasoning model says to itself before it answers.
    """

    text: str
    reply: Reply | None = None
    kind: PieceKind = "answer"
