"""Answers as they were sampled: a text read again by the tokenizer need not give the tokens that spoke it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SampledAnswer:
    """One answer.

    Attributes:
        prompt: ids it answered, [S].
        ids: of the answer.
        text: of the answer.
    """

    prompt: Ids
    ids: Ids
    text: str


class SampledHistory:
    """The answers of a conversation that may still lie in its KV cache.

    Args:
        decode: text of ids, special tokens left out.
        eos_ids: tokens that end an answer.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], eos_ids: Collection[int]) -> None:
        self.answers: list[SampledAnswer] = []
        self._decode = decode
        self._eos_ids = list(eos_ids)

    def forget(self) -> None:
        """Drop all of them."""
        self.answers = []

    def add(self, prompt: Ids, ids: Sequence[int], text: str) -> None:
        """Remember an answer."""
        self.answers.append(SampledAnswer(prompt, np.array(ids, np.int32), text))

    def put_back(self, ids: Ids, places: Places) -> tuple[Ids, Places]:
        """Put sampled tokens where the template's text stands for them; with these the cache stays valid.

        Args:
            ids: of the rendered dialogue, [S].
            places: as ``TokenSequence.places``.
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
        """Forget answers that this dialogue does not contain: edited or dropped ones."""
        self.answers = [spoken for spoken in self.answers if _begins(ids, spoken)]


def _begins(ids: Ids, spoken: SampledAnswer) -> bool:
    whole = np.concatenate([spoken.prompt, spoken.ids])
    return len(whole) <= len(ids) and bool((ids[: len(whole)] == whole).all())
