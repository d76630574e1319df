"""Answers as sampled token ids: tokenizing an answer's text need not give the sampled tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SampledAnswer:
    """Token ids and text of one answer.

    Attributes:
        prompt: ids of the prompt, [S].
        ids: ids of the answer.
        text: text of the answer.
    """

    prompt: Ids
    ids: Ids
    text: str


class SampledHistory:
    """Answers of a conversation that may still be in its KV cache.

    Args:
        decode: function from ids to text without special tokens.
        eos_ids: tokens that end an answer.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], eos_ids: Collection[int]) -> None:
        self.answers: list[SampledAnswer] = []
        self._decode = decode
        self._eos_ids = list(eos_ids)

    def forget(self) -> None:
        """Remove all answers."""
        self.answers = []

    def add(self, prompt: Ids, ids: Sequence[int], text: str) -> None:
        """Add an answer."""
        self.answers.append(SampledAnswer(prompt, np.array(ids, np.int32), text))

    def put_back(self, ids: Ids, places: Places) -> tuple[Ids, Places]:
        """Replace the tokenized text of earlier answers by their sampled tokens, so that the cache stays valid.

        Args:
            ids: ids of the rendered dialogue, [S].
            places: feature rows by position, as ``TokenSequence.places``.
        """
        for spoken in self.answers:
            start = len(spoken.prompt)
            if len(ids) <= start or (ids[:start] != spoken.prompt).any():
                continue
            ends = np.flatnonzero(np.isin(ids[start:], self._eos_ids))
            end = start + int(ends[0]) if len(ends) else len(ids)
            if places[start:end].any() or self._decode(ids[start:end].tolist()) != spoken.text:
                continue
            ids = np.concatenate([ids[:start], spoken.ids, ids[end:]])
            places = np.concatenate([places[:start], np.zeros(len(spoken.ids), np.int64), places[end:]])
        return ids, places

    def keep_only(self, ids: Ids) -> None:
        """Remove answers that this dialogue does not contain: edited or dropped ones."""
        self.answers = [spoken for spoken in self.answers if _begins(ids, spoken)]


def _begins(ids: Ids, spoken: SampledAnswer) -> bool:
    whole = np.concatenate([spoken.prompt, spoken.ids])
    return len(whole) <= len(ids) and bool((ids[: len(whole)] == whole).all())
