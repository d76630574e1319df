"""From logits to the next token id, in numpy.

genai freezes sampling options when its Generator is made; sampling here lets every turn have its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

from .generation_options import GenerationOptions


class Sampler:
    """Draws token ids under one turn's options; equal seeds draw equal ids.

    Args:
        options: of the turn.
        never: ids that are never drawn: the media placeholders.
        seen: ids of the prompt, for the repetition penalty.
    """

    def __init__(self, options: GenerationOptions, *, never: Sequence[int], seen: Sequence[int]) -> None:
        self._options = options.resolved()
        self._never = np.array(sorted(never), np.int64)
        self._random = np.random.default_rng(options.seed)
        self._seen = set(seen) if self._options.repetition_penalty != 1.0 else set()

    def draw(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """The next id.

        Args:
            logits: [V]; left unchanged.
            allowed: [V] ids that may be drawn; None for all.

        Raises:
            InputError: none may be drawn.
        """
        options = self._options
        scores = logits.astype(np.float64)
        if options.repetition_penalty != 1.0:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            penalty = options.repetition_penalty
            scores[seen] *= np.where(scores[seen] < 0, penalty, 1 / penalty)
        scores[self._never] = -np.inf
        if allowed is not None:
            scores[~allowed] = -np.inf
            if scores.max() == -np.inf:
                raise InputError("grammar: no token of the vocabulary can go on here, expected a grammar it can spell")
        token = int(scores.argmax()) if options.temperature == 0 else self._sample(scores)
        if options.repetition_penalty != 1.0:
            self._seen.add(token)
        return token

    def _sample(self, scores: NDArray[np.float64]) -> int:
        options = self._options
        order = np.arange(len(scores))
        if 0 < options.top_k < len(scores):
            order = np.argpartition(-scores, options.top_k)[: options.top_k]
        order = order[np.argsort(-scores[order], kind="stable")]
        scaled = (scores[order] - scores[order[0]]) / options.temperature
        weights = np.exp(scaled)
        weights /= weights.sum()
        if options.top_p < 1:
            weights = weights[: int(np.searchsorted(np.cumsum(weights), options.top_p)) + 1]
        place = np.searchsorted(np.cumsum(weights), self._random.random() * weights.sum(), side="right")
        return int(order[min(int(place), len(weights) - 1)])
