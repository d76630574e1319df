"""Whole answers of two decoders to the packaged questions: accuracy, and the prompts with the largest divergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.evaluate import wilson_interval

MAX_TOKENS = 24
WORST = 6

Greedy = Callable[[Any, int], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One question with the answers of both decoders.

    Attributes:
        mode: mode of the input.
        prompt: text of the prompt.
        expected: the right answer; empty if none is known.
        reference: answer of the float decoder.
        found: answer of the bundle.
        kl: mean KL over the first answer tokens, in nats.
        messages: the question itself, with its pictures and sounds.
    """

    mode: str
    prompt: str
    expected: str
    reference: str
    found: str
    kl: float
    messages: Sequence[Mapping[str, Any]] = ()


def accuracy(compared: Sequence[Compared]) -> dict[str, dict[str, float]]:
    """Return right answers of both by mode, each with Wilson's 95 % interval, and the number of questions.

    A mode is left out if the float model gives no right answer: it was not trained on the questions.
    """
    table: dict[str, dict[str, float]] = {}
    known = [c for c in compared if c.expected.strip()]
    for mode in dict.fromkeys(c.mode for c in known):
        some = [c for c in known if c.mode == mode]
        if all(c.reference != c.expected.strip() for c in some):
            continue
        row: dict[str, float] = {"items": len(some)}
        for who in ("reference", "found"):
            right = sum(getattr(c, who) == c.expected.strip() for c in some)
            low, high = wilson_interval(right, len(some))
            row |= {f"{who}_right": right, f"{who}_low": round(low, 4), f"{who}_high": round(high, 4)}
        table[mode] = row
    return table


def worst(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return the prompts with the largest divergence, largest first; without their messages."""
    names = [field.name for field in fields(Compared) if field.name != "messages"]
    return [{name: getattr(c, name) for name in names} | {"kl": round(c.kl, 6)} for c in most_divergent(compared)]


def most_divergent(compared: Sequence[Compared]) -> list[Compared]:
    """Return the questions with the largest divergence, largest first."""
    return sorted(compared, key=lambda c: -c.kl)[:WORST]


def text_of(tokens: NDArray[np.int64], eos_ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> str:
    """Return the text of an answer up to its end."""
    ids = tokens.tolist()
    ends = [ids.index(i) for i in eos_ids if i in ids]
    return decode(ids[: min(ends, default=len(ids))]).strip()


def prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a question for the report."""
    shown: list[str] = []
    for message in messages:
        content = message.get("content") or ""
        for part in [content] if isinstance(content, str) else content:
            kind = "text" if isinstance(part, str) else str(part.get("type"))
            shown.append(str(part if isinstance(part, str) else part.get("text")) if kind == "text" else f"[{kind}]")
    return " ".join(shown)
