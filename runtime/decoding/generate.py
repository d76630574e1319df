"""The token loop: it turns a prefilled sequence into a stream of token ids and applies the stop rules.

This module handles no text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from time import perf_counter

import numpy as np

from .cached_sequence import CachedSequence, Cancelled, CancelledError
from .generation_options import GenerationOptions
from .guided_decoding import GuidedDecoder
from .prompt_lookup import PromptLookup
from .reasons import EndReason, ReprefillReason
from .sampling import Sampler, logprobs_of


class TokenStream:
    """Iterator over the sampled token ids of one answer, without the end token.

    A sampled token is returned before the decoder reads it, so the last one of an answer is read only when the
    conversation continues. With prompt lookup, draft tokens are read in the same step; those that are sampled then need
    no step of their own.

    Attributes:
        ended_by: reason why the answer ended; None before the end.
        logprobs: those of each token so far (``logprobs_of``); empty unless ``options.top_logprobs`` is set.
        reprefilled: "rope" if the LongRoPE boundary was crossed during the answer, otherwise None.
    """

    def __init__(
        self,
        track: CachedSequence,
        options: GenerationOptions,
        *,
        eos_ids: Collection[int],
        never: Collection[int],
        guide: GuidedDecoder | None = None,
        drafter: PromptLookup | None = None,
        cancelled: Cancelled,
    ) -> None:
        self.ended_by: EndReason = "max_tokens"
        self.reprefilled: ReprefillReason | None = None
        self.logprobs: list[list[tuple[int, float]]] = []
        self._never = tuple(never)
        self._track = track
        self._options = options.resolved()
        self._eos_ids = frozenset(eos_ids)
        self._guide = guide
        self._drafter = drafter
        self._cancelled = cancelled
        self._sampler = Sampler(options, never=self._never, seen=track.ids.tolist())

    def __iter__(self) -> Iterator[int]:
        for left in range(self._options.max_tokens - 1, -1, -1):
            if self._cancelled():
                self.ended_by = "cancelled"
                return
            token = self._draw()
            if self._drafter is not None:
                self._drafter.sampled(token, was_read=self._track.expects(token))
            if token in self._eos_ids:
                self.ended_by = "eos"
                return
            yield token
            if left == 0:
                return
            if self._track.room() == 0:
                self.ended_by = "context_full"
                return
            try:
                self._extend(token, left)
            except CancelledError:
                self.ended_by = "cancelled"
                return

    def _extend(self, token: int, left: int) -> None:
        """Read a sampled token when ``left`` tokens are still to come, with draft tokens behind it if there are any."""
        drafter, track = self._drafter, self._track
        if drafter is None or track.expects(token):
            self.reprefilled = track.step(token, self._cancelled) or self.reprefilled
            return
        draft = drafter.draft(np.append(track.ids, np.int32(token)), min(track.draft_room(), left - 1))
        started = perf_counter()
        reason = track.step(token, self._cancelled, draft)
        if reason is None:
            drafter.took(len(draft), perf_counter() - started)
        self.reprefilled = reason or self.reprefilled

    def _draw(self) -> int:
        logits = self._track.logits()
        token = self._sampler.draw(logits, None if self._guide is None else self._guide.allowed(len(logits)))
        if token not in self._eos_ids:
            if self._guide is not None:
                self._guide.advance(token)
            if (count := self._options.top_logprobs) is not None:
                self.logprobs.append(logprobs_of(logits, token, count, self._never))
        return token
