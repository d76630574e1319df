"""Compare speeds on a machine that is not quiet: contenders take turns, in an order that changes each round."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

WARM, TIMED = 1, 3


def in_turns(
    contenders: Mapping[str, Callable[[], None]], rounds: int, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Seconds of one call, of each contender in each round.

    A contender's first call of a round is not counted: it finds the caches, and the other sessions' spinning
    threads, as the contender before it left them.

    Args:
        contenders: what is timed, by name.
        rounds: of all contenders; one more is run before, and not counted.
        seed: of the order within the rounds.

    Returns:
        [rounds] for each, the round's median call; entries of the same round belong together.
    """
    order, generator = list(contenders), random.Random(seed)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        generator.shuffle(order)
        for name in order:
            seconds = [_timed(contenders[name]) for _ in range(WARM + TIMED)][WARM:]
            if number:
                found[name].append(float(np.median(seconds)))
    return {name: np.array(times) for name, times in found.items()}


def ratio(base: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How fast the other is, in units of the base: the median of the rounds' own ratios."""
    return float(np.median(base / other))


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
