"""Choice of one option for every tensor with the least loss for its bytes: a knapsack, solved on convex hulls.

Of a tensor's options only those on the lower convex hull of (bytes, loss) are optimal for some price of a byte.
Starting from the smallest options, the step with the most loss saved per byte is taken repeatedly. That is the optimum
of the relaxed problem at every size on the way, and differs from the optimum by less than one step between. Time is a
second budget: a second has a price, which is added to the loss of each option.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LOWEST_PRICE, HIGHEST_PRICE = 1e-9, 1e18  # price of a second, in the quantity that is minimised: nats or bytes
PRICE_STEPS = 40


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store a tensor: its size, loss and time.

    Attributes:
        size_bytes: bytes on disk.
        loss: loss added to that of the whole model.
        seconds: time of one token through the tensor.
    """

    size_bytes: int
    loss: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Solution:
    """One option for every tensor, with the totals.

    Attributes:
        chosen: index of the option of each tensor.
        size_bytes: total bytes.
        loss: total loss.
        seconds: total seconds.
    """

    chosen: tuple[int, ...]
    size_bytes: int
    loss: float
    seconds: float = 0.0


def frontier(tensors: Sequence[Sequence[Option]]) -> list[Solution]:
    """Return the optimal solutions from the smallest to the most exact one."""
    chosen = [hull[0] for hull in map(_hull, tensors)]
    found = [_summed(tensors, chosen)]
    for tensor, _, option in _steps(tensors):
        chosen[tensor] = option
        found.append(_summed(tensors, chosen))
    return found


def within_bytes(
    tensors: Sequence[Sequence[Option]], limit_bytes: int, limit_seconds: float | None = None
) -> Solution | None:
    """Return the solution of least loss within bytes and seconds, or None if the smallest or fastest options need more.

    >>> options = [[Option(1, 4.0), Option(2, 1.0)], [Option(1, 2.0), Option(3, 0.0)]]
    >>> within_bytes(options, 3).chosen
    (1, 0)
    """

    def priced(price: float) -> Solution | None:
        dearer = [[Option(o.size_bytes, o.loss + price * o.seconds) for o in options] for options in tensors]
        return _within_bytes(dearer, limit_bytes)

    def worth(solution: Solution) -> float:
        return solution.loss if solution.size_bytes <= limit_bytes else float("inf")

    return _fast_enough(tensors, priced, worth, limit_seconds)


def within_loss(
    tensors: Sequence[Sequence[Option]], limit: float, limit_seconds: float | None = None
) -> Solution | None:
    """Return the smallest solution within loss and time, or None if the most exact options exceed one of them."""

    def priced(price: float) -> Solution | None:
        dearer = [[Option(o.size_bytes + round(price * o.seconds), o.loss) for o in options] for options in tensors]
        there = [solution for solution in [*frontier(dearer), *_uniform(dearer)] if solution.loss <= limit]
        return min(there, key=lambda solution: solution.size_bytes, default=None)

    def worth(solution: Solution) -> float:
        return solution.size_bytes if solution.loss <= limit else float("inf")

    return _fast_enough(tensors, priced, worth, limit_seconds)


def fastest(tensors: Sequence[Sequence[Option]]) -> float:
    """Return the total seconds of the fastest options."""
    return sum(min(option.seconds for option in options) for options in tensors)


def _fast_enough(
    tensors: Sequence[Sequence[Option]],
    priced: Callable[[float], Solution | None],
    worth: Callable[[Solution], float],
    limit_seconds: float | None,
) -> Solution | None:
    """Solution of the lowest price of a second that meets the time: Lagrange's multiplier, found by bisection.

    At that price equal tensors all change at once; those of the next lower price that still fit are changed one by one.
    """

    def solved(price: float) -> Solution | None:
        found = priced(price)
        return None if found is None else _summed(tensors, list(found.chosen))

    found = solved(0.0)
    if limit_seconds is None or found is None or found.seconds <= limit_seconds:
        return found
    low, high = LOWEST_PRICE, LOWEST_PRICE
    best: Solution | None = None
    while best is None and high < HIGHEST_PRICE:
        low, high = high, high * 10
        found = solved(high)
        best = found if found is not None and found.seconds <= limit_seconds else None
    for _ in range(PRICE_STEPS if best is not None else 0):
        price = (low * high) ** 0.5
        found = solved(price)
        if found is not None and found.seconds <= limit_seconds:
            best, high = found, price
        else:
            low = price
    slower = solved(low) if best is not None else None
    if best is None or slower is None:
        return best
    for tensor, option in enumerate(slower.chosen):
        changed = list(best.chosen)
        changed[tensor] = option
        tried = _summed(tensors, changed)
        if tried.seconds <= limit_seconds and worth(tried) < worth(best):
            best = tried
    return best


def _within_bytes(tensors: Sequence[Sequence[Option]], limit_bytes: int) -> Solution | None:
    chosen = [hull[0] for hull in map(_hull, tensors)]
    size_bytes = sum(options[at].size_bytes for options, at in zip(tensors, chosen, strict=True))
    if size_bytes > limit_bytes:
        return None
    for tensor, before, option in _steps(tensors):
        more = tensors[tensor][option].size_bytes - tensors[tensor][before].size_bytes
        # later steps of a tensor need the earlier ones
        if chosen[tensor] == before and size_bytes + more <= limit_bytes:
            chosen[tensor] = option
            size_bytes += more
    best = _summed(tensors, chosen)
    for uniform in _uniform(tensors):
        if uniform.size_bytes <= limit_bytes and uniform.loss < best.loss:
            best = uniform
    return best


def _uniform(tensors: Sequence[Sequence[Option]]) -> list[Solution]:
    """Solutions with the same option for every tensor, if all have equally many."""
    counts = {len(options) for options in tensors if len(options) > 1}
    if len(counts) != 1:
        return []
    return [_summed(tensors, [min(at, len(o) - 1) for o in tensors]) for at in range(counts.pop())]


def _steps(tensors: Sequence[Sequence[Option]]) -> list[tuple[int, int, int]]:
    """Steps along every hull, most loss saved per byte first: (tensor, option before, option after)."""
    steps = []
    for tensor, options in enumerate(tensors):
        hull = _hull(options)
        for before, after in itertools.pairwise(hull):
            steps.append((-_slope(options[before], options[after]), tensor, before, after))
    return [(tensor, before, after) for _, tensor, before, after in sorted(steps)]


def _hull(options: Sequence[Option]) -> list[int]:
    """Indices on the lower convex hull, by size, from the smallest option down to the least loss."""
    order = sorted(range(len(options)), key=lambda at: (options[at].size_bytes, options[at].loss))
    hull: list[int] = []
    for at in order:
        if hull and options[at].loss >= options[hull[-1]].loss:
            continue
        while len(hull) > 1 and _slope(options[hull[-2]], options[hull[-1]]) <= _slope(options[hull[-1]], options[at]):
            hull.pop()
        hull.append(at)
    return hull


def _slope(before: Option, after: Option) -> float:
    """Loss saved per byte."""
    return (before.loss - after.loss) / max(after.size_bytes - before.size_bytes, 1)


def _summed(tensors: Sequence[Sequence[Option]], chosen: Sequence[int]) -> Solution:
    there = [options[at] for options, at in zip(tensors, chosen, strict=True)]
    sums = sum(o.size_bytes for o in there), sum(o.loss for o in there), sum(o.seconds for o in there)
    return Solution(tuple(chosen), *sums)
