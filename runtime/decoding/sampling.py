"""Sampling: from logits to the next token id, in numpy.

genai fixes sampling options when its Generator is made; sampling here lets every turn have its own. The vocabulary is
never sorted: at 200,064 tokens a draw takes less than a millisecond, and with ``top_p`` on a flat distribution, or
among very many tokens behind a grammar's mask, less than two (``benchmarks/sampling.py``, one x86 core).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

from .generation_options import GenerationOptions

BLOCK = 512  # weights per block of the search for a position in their sum
SAMPLE, MARGIN = 8192, 150  # sample size for the place where ``top_p`` is reached, and the error allowed
MINUS_INFINITY = int(np.float32(-np.inf).view(np.int32))
SMALLEST = np.finfo(np.float32).smallest_subnormal
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
        self._scores, self._bits = np.empty(0, np.float32), np.empty(0, np.int32)  # made once: their pages are costly
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
        if len(self._scores) != len(logits):
            self._scores, self._bits = np.empty(len(logits), np.float32), np.empty(len(logits), np.int32)
        scores = self._scores
        scores[:] = logits
        seen = self._seen
        if seen is not None:
            penalty = np.float32(options.repetition_penalty)
            scores[seen] *= np.where(scores[seen] < 0, penalty, 1 / penalty)
        scores[self._never] = -np.inf
        if allowed is not None:
            forbid(scores, allowed, self._bits)
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
        weights = np.exp(scores, out=scores)  # the most probable token's is 1
        if options.top_p < 1:
            keep_fewest(weights, options.top_p, self._bits)
        if options.min_p > 0:
            weights *= weights >= np.float32(options.min_p)
        place = draw_by_weight(weights, self._random.random())
        return place if ids is None else int(ids[place])


def forbid(scores: NDArray[np.float32], allowed: NDArray[np.bool_], buffer: NDArray[np.int32]) -> None:
    """Set what is not allowed to minus infinity, in place; by bits, because numpy's masks take 3 ms at 200,064.

    Args:
        scores: [V].
        allowed: [V].
        buffer: [V], overwritten.
    """
    bits = scores.view(np.int32)
    np.negative(allowed.view(np.int8), out=buffer, dtype=np.int32)  # all ones where allowed
    bits &= buffer
    np.invert(buffer, out=buffer)
    buffer &= np.int32(MINUS_INFINITY)
    bits |= buffer


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


def keep_fewest(weights: NDArray[np.float32], share: float, buffer: NDArray[np.int32]) -> None:
    """Set to zero, in place, all but the fewest weights that reach this share of their sum.

    Args:
        weights: [N].
        share: above 0, below 1.
        buffer: at least [N], overwritten.
    """
    total = float(weights.sum(dtype=np.float64))
    wanted = share * total
    if len(weights) > FIRST_LOOK and FIRST_LOOK * float(weights.max()) >= wanted:
        likeliest = most_probable(weights, FIRST_LOOK)
        if float(weights[likeliest].sum(dtype=np.float64)) >= wanted:
            _keep(weights, likeliest[_reaching(weights[likeliest], wanted)])
            return
    # Very many are needed: a sample tells about where the last of them lies, and only what lies there is sorted. What
    # is left out is counted from below, because a few large weights may hold most of the sum.
    if len(weights) > 4 * SAMPLE:
        every = len(weights) // SAMPLE
        sample = np.sort(weights[::every])
        middle = int(np.searchsorted(np.cumsum(sample, dtype=np.float64), (total - wanted) / every))
        first, last = middle - MARGIN, middle + MARGIN
        most = sample[last] if last < len(sample) else np.float32(np.inf)
        least = max(sample[first] if first >= 0 else np.float32(0), np.float32(SMALLEST))  # zeros are never wanted
        kept = weights > most
        border = np.flatnonzero(kept ^ (weights >= least))
        likely = np.multiply(weights, kept, out=buffer[: len(weights)].view(np.float32))
        left = wanted - float(likely.sum(dtype=np.float64))
        there = weights[border]
        if 0 < left <= float(there.sum(dtype=np.float64)):
            chosen = _reaching(there, left)
            weights[:] = likely
            weights[border[chosen]] = there[chosen]
            return
    _keep(weights, _reaching(weights, wanted))


def _keep(weights: NDArray[np.float32], places: NDArray[np.int64]) -> None:
    kept = weights[places]
    weights[:] = 0
    weights[places] = kept


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
    last = int(np.searchsorted(sums, sums[-1]))  # behind it there are zeros alone
    block = min(int(np.searchsorted(sums, goal, side="right")), last)
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    goal -= sums[block - 1] if block else 0.0
    place = int(np.searchsorted(inside, goal, side="right"))
    if place == len(inside):  # after rounding: the last index that can be drawn
        place = int(np.flatnonzero(weights[block * BLOCK : (block + 1) * BLOCK])[-1])
    return block * BLOCK + place


def logprobs_of(
    logits: NDArray[np.float32], token: int, count: int, never: Collection[int] = ()
) -> list[tuple[int, float]]:
    """Natural logarithms of probabilities under the model's own distribution.

    Temperature, penalties, ``top_k``, ``top_p`` and grammars are not part of it.

    Args:
        logits: [V] float32; not changed.
        token: id that was sampled.
        count: number of most probable ids to report.
        never: ids without a probability: the media placeholders.

    Returns:
        The sampled id with its log-probability, then ``count`` ids from the most probable on.

    >>> [(i, round(p, 3)) for i, p in logprobs_of(np.log(np.array([1, 2, 1], np.float32)), 0, 1)]
    [(0, -1.386), (1, -0.693)]
    """
    scores = logits.astype(np.float64)
    scores[list(never)] = -np.inf
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    count = min(count, len(scores))
    top = np.argpartition(-scores, count - 1)[:count] if count else np.zeros(0, np.int64)
    top = top[np.lexsort((top, -scores[top]))]
    return [(token, float(scores[token])), *((int(i), float(scores[i])) for i in top)]
