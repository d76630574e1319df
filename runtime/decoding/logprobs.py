"""Log-probabilities of a sampled token and of the most probable tokens beside it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


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
