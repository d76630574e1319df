"""Steps in which a prompt is read: how many tokens each has.

Cancelling acts between two steps, and genai holds Python's lock during one. So a step is as long as pays, and takes
about a second at most.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

ROWS_OF_A_TILE = 128
"""Rows that onnxruntime's 4-bit kernels process at a time; a step with one row left over rounds differently. Measured
on 1.32, x86 with AVX512-VNNI, in steps of 129 and of 513; all other lengths from two on agree bit for bit.
"""

LONGEST_S = 0.8
"""Seconds that a step may take, so that a cancelled answer ends within one second."""


class PrefillChunk:
    """Most prompt tokens of a step, chosen such that a step takes ``LONGEST_S`` at most.

    The first step has ``first`` tokens; every later one has the largest power of two that fits by the time of the step
    before. Sequences that run on the same decoder share one. Texts do not depend on it: see ``ROWS_OF_A_TILE``.

    Args:
        first: tokens of the first step; the number of every step without ``largest``.
        smallest: tokens below which a step does not go, however slow.
        largest: tokens above which a step does not go, however fast; None for a fixed number.

    >>> chunk = PrefillChunk(32, smallest=8, largest=128)
    >>> chunk.note(32, 0.1)
    >>> chunk.tokens
    128
    >>> chunk.note(128, 4.0)
    >>> chunk.tokens
    16
    """

    def __init__(self, first: int, *, smallest: int | None = None, largest: int | None = None) -> None:
        self.tokens = first
        self.smallest = first if smallest is None or largest is None else smallest
        self.largest = first if largest is None else largest

    def note(self, tokens: int, seconds: float) -> None:
        """Choose the next step's tokens by the time of the last.

        Steps much shorter than wanted are left out: a step has costs that do not depend on its length.
        """
        if self.largest == self.smallest or tokens < self.tokens // 2:
            return
        fits = tokens * LONGEST_S / max(seconds, 1e-6)
        chosen = self.largest
        while chosen > fits and chosen // 2 >= self.smallest:
            chosen //= 2
        self.tokens = chosen

    @contextmanager
    def measured(self, tokens: int) -> Iterator[None]:
        """Note the time of a step, unless it fails."""
        started = time.perf_counter()
        yield
        self.note(tokens, time.perf_counter() - started)


def prefill_step(left: int, chunk: int) -> int:
    """Return the tokens of the next step, of at most ``chunk``, such that no tile of a single row remains.

    One more than ``chunk`` where a single token would be left.

    >>> prefill_step(129, 128), prefill_step(2, 128), prefill_step(11, 4), prefill_step(1, 128)
    (127, 2, 4, 1)
    >>> prefill_step(5, 2), prefill_step(3, 2), prefill_step(2, 1)
    (2, 3, 1)
    """
    size = min(chunk, left)
    if chunk == 1:
        return size
    fits = (n for n in range(size, 1, -1) if n % ROWS_OF_A_TILE != 1 and left - n != 1)
    return next(fits, min(left, size + 1))
