"""Sampling: from logits to the next token id, in numpy.

genai fixes sampling options when its Generator is made; sampling here lets every turn have its own. The vocabulary is
never sorted: at 200,064 tokens every option takes less than a millisecond (``benchmarks/sampling.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

from .generation_options import GenerationOptions

BLOCK = 512  # weights per block of the search for a position in their sum
SAMPLE, MARGIN = 8192, 150  # sample size for the place where ``top_p`` is reached, and the error allowed
MINUS_INFINITY = int(np.float32(-np.inf).view(np.int32))
FIRST_LOOK = 64  # number of most probable tokens in which ``top_p`` is looked for first


class Sampler:
    """Sampler of token ids for one answer; equal seeds draw equal ids.

    Args:
        options: generation options of the turn.
        never: ids that are never drawn: the media placeholders.
        seen: ids of the prompt, for the repetition penalty.
    """

    def __init__(self, options: GenerationOptions, *, never: Sequence[int], seen: Sequence[int]) -> None:
        self._options = options.resolved()
        self._never = np.array(sorted(never), np.int64)
        self._random = np.random.default_rng(options.seed)
        self._seen = np.unique(np.array(seen, np.int64)) if self._options.repetition_penalty != 1.0 else None

    def draw(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """Draw the next token id.

        Args:
            logits: [V] float32; not changed.
            allowed: [V] bool, True for ids that may be drawn; None for all.

        Raises:
            InputError: no id may be drawn.
        """
        options = self._options
        scores = np.array(logits, np.float32)
        seen = self._seen
        if seen is not None:
            penalty = np.float32(options.repetition_penalty)
            scores[seen] *= np.where(scores[seen] < 0, penalty, 1 / penalty)
        scores[self._never] = -np.inf
        if allowed is not None:
            forbid(scores, allowed)
        token = int(scores.argmax())
        if scores[token] == -np.inf:
            raise InputError("grammar: no token of the vocabulary continues the answer, expected another grammar")
        if options.temperature > 0:
            token = self._sample(scores, scores[token])
        if seen is not None:
            place = int(np.searchsorted(seen, token))
            if place == len(seen) or seen[place] != token:
                self._seen = np.insert(seen, place, token)
        return token

    def _sample(self, scores: NDArray[np.float32], best: np.float32) -> int:
        options = self._options
        ids = None
        if 0 < options.top_k < len(scores):
            ids = most_probable(scores, options.top_k)
            scores = scores[ids]
        scores -= best
        scores /= np.float32(max(options.temperature, 1e-30))
        weights = np.exp(scores)
        if options.top_p < 1:
            kept = fewest(weights, scores, options.top_p)
            ids = kept if ids is None else ids[kept]
            weights = weights[kept]
        place = draw_by_weight(weights, self._random.random())
        return place if ids is None else int(ids[place])


def forbid(scores: NDArray[np.float32], allowed: NDArray[np.bool_]) -> None:
    """Set logits that are not allowed to minus infinity, in place; by bits: numpy's masks take 3 ms at 200,064."""
    bits = scores.view(np.int32)
    keep = -allowed.view(np.int8).astype(np.int32)  # all ones where allowed
    bits &= keep
    bits |= np.int32(MINUS_INFINITY) & ~keep


def most_probable(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the indices of the highest scores, in rising order; of equal scores the lower indices.

    >>> most_probable(np.array([1, 5, 3, 5, 0], np.float32), 2).tolist()
    [1, 3]
    """
    blocks = len(scores) // BLOCK
    candidates: NDArray[np.int64] | None = None
    # as many blocks have a maximum of at least ``bound``: no smaller score is among the results
    if count <= blocks // 2:
        maxima = scores[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
        bound = np.partition(maxima, blocks - count)[blocks - count]
        candidates = np.flatnonzero(scores >= bound)
    values = scores if candidates is None else scores[candidates]
    least = np.partition(values, len(values) - count)[len(values) - count]
    above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    places = np.sort(np.concatenate([above, equal[: count - len(above)]]))
    return places if candidates is None else candidates[places]


def fewest(weights: NDArray[np.float32], scores: NDArray[np.float32], share: float) -> NDArray[np.int64]:
    """Return the indices of the fewest weights whose sum reaches a share of the total, in rising order.

    Args:
        weights: [N] float32, exp of ``scores``.
        scores: [N] float32, the highest is 0.
        share: share of the total sum, above 0 and below 1.
    """
    wanted = share * float(weights.sum(dtype=np.float64))
    if len(weights) > FIRST_LOOK:
        likeliest = most_probable(scores, FIRST_LOOK)
        if float(weights[likeliest].sum(dtype=np.float64)) >= wanted:
            return np.sort(likeliest[_reaching(weights[likeliest], wanted)])
    # Many indices are needed: a sample shows roughly where the last of them lies, and only that range is sorted.
    if len(weights) > 4 * SAMPLE:
        sample = -np.sort(-weights[:: len(weights) // SAMPLE])
        sums = np.cumsum(sample, dtype=np.float64)
        middle = int(np.searchsorted(sums, share * sums[-1]))
        most, least = sample[max(middle - MARGIN, 0)], sample[min(middle + MARGIN, len(sample) - 1)]
        kept = weights > most
        border = np.flatnonzero(kept ^ (weights >= least))
        left = wanted - float((weights * kept.astype(np.float32)).sum())
        if 0 < left <= float(weights[border].sum(dtype=np.float64)):
            kept[border[_reaching(weights[border], left)]] = True
            return np.flatnonzero(kept)
    return np.sort(_reaching(weights, wanted))


def _reaching(weights: NDArray[np.float32], wanted: float) -> NDArray[np.int64]:
    """Indices of the largest weights, the fewest whose sum is at least this."""
    order = np.argsort(-weights)
    return order[: int(np.searchsorted(np.cumsum(weights[order], dtype=np.float64), wanted)) + 1]


def draw_by_weight(weights: NDArray[np.float32], uniform: float) -> int:
    """Return an index drawn with probability proportional to its weight; ``uniform`` lies in 0..1.

    >>> draw_by_weight(np.array([1, 0, 3], np.float32), 0.2), draw_by_weight(np.array([1, 0, 3], np.float32), 0.3)
    (0, 2)
    """
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)), dtype=np.float64)
    goal = uniform * sums[-1]
    block = min(int(np.searchsorted(sums, goal, side="right")), len(sums) - 1)
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    goal -= sums[block - 1] if block else 0.0
    place = int(np.searchsorted(inside, goal, side="right"))
    if place == len(inside):  # after rounding: the last index that can be drawn
        place = int(np.flatnonzero(weights[block * BLOCK : (block + 1) * BLOCK])[-1])
    return block * BLOCK + place
