"""Guesses at the tokens that follow, from what the text has said before (n-gram speculation), and how many to try.

A step of several tokens costs less than as many steps of one, because the weights are read once. So guesses are
appended behind the token that was sampled, and the logits of every position tell which of them would have been
sampled anyway; those are free, the first other one is taken back. The sampler draws each token from the logits of its
own position as ever, so that the answer is the same with and without, sampled ones included.

How many guesses pay is a question of two measured numbers: how often they come true, and what a longer step costs.
Knows ids and seconds; no decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

from .manifest import MAX_DRAFT_ROWS, Manifest
from .options import GenerationOptions

LONGEST_MATCH, SHORTEST_MATCH = 4, 2
"""Tokens at the end of the text that are looked for further in front."""
FIRST_CHANCE = 0.5
"""Of a guess, before there were any; it moves by ``LEARNING`` towards what came true."""
LEARNING = 0.1
STEP_COSTS = (1.0, 1.15, 1.68, 2.05, 2.5, 2.9, 3.4, 3.8)
"""Seconds of a step of 1, 2, ... tokens over those of a step of one, before any was measured: two x86 cores with AVX2,
full-size matrices at 4 bits and accuracy level 4 (``benchmarks/speculation.py``). Each further token: ``FURTHER``."""
FURTHER = 0.43
SMOOTHING, OTHERS, FORGETTING = 0.3, 0.03, 0.001
"""How far a measured time moves the cost of its own step and of the others, and how far those drift back to
``STEP_COSTS`` with every step of one token, so that what a busy moment made look dear is tried again. Chosen by
simulation: where guesses do not pay they cost 5 % at most (``tests/runtime/test_drafting.py``)."""
DEAREST = 4.0  # times as dear as reading the tokens one by one: more is a moment in which the machine stood still
SHORTEST_STEP_S = 1e-6


class Pace(Protocol):
    """How many guesses to try, and what it learns from."""

    def choose(self, match: int, found: int) -> int:
        """How many of so many guesses to try, after a match of this length."""

    def judged(self, match: int, came_true: bool) -> None:
        """A guess came true, or did not, whether it was tried or not."""

    def took(self, width: int, seconds: float) -> None:
        """A step of so many tokens took so long."""


class MeasuredPace:
    """As many guesses as the times and chances measured so far say pay off; none where none would.

    One for each conversation: chances are those of its text, times those of its decoder.
    """

    def __init__(self) -> None:
        self._chance = dict.fromkeys(range(SHORTEST_MATCH, LONGEST_MATCH + 1), FIRST_CHANCE)
        self._single_s: float | None = None
        self._costs = [step_cost(width) for width in range(1, MAX_DRAFT_ROWS + 1)]

    def choose(self, match: int, found: int) -> int:
        """The number that gives most tokens per second, the smaller of equals; none before a step was measured."""
        if self._single_s is None:
            return 0
        chance = self._chance[match]
        best, best_rate, expected, term = 0, 1.0, 1.0, 1.0
        for count in range(1, found + 1):
            term *= chance
            expected += term
            rate = expected / self._costs[count]
            if rate > best_rate:
                best, best_rate = count, rate
        return best

    def judged(self, match: int, came_true: bool) -> None:
        """Move the chance of a guess after such a match."""
        self._chance[match] += LEARNING * (float(came_true) - self._chance[match])

    def took(self, width: int, seconds: float) -> None:
        """Move the cost of this step, and a little those of the other longer ones."""
        if width == 1:
            before = seconds if self._single_s is None else self._single_s
            self._single_s = max(before + SMOOTHING * (seconds - before), SHORTEST_STEP_S)
            self._move([step_cost(each) for each in range(1, MAX_DRAFT_ROWS + 1)], FORGETTING)
        elif self._single_s is not None:
            found = min(seconds / self._single_s, DEAREST * width)
            times = (found - 1) / (step_cost(width) - 1)
            self._move([1 + (step_cost(each) - 1) * times for each in range(1, MAX_DRAFT_ROWS + 1)], OTHERS)
            self._costs[width - 1] += SMOOTHING * (found - self._costs[width - 1])

    def _move(self, towards: list[float], share: float) -> None:
        self._costs = [cost + share * (goal - cost) for cost, goal in zip(self._costs, towards, strict=True)]


class EveryGuess:
    """Every guess is tried: what ``speculate=True`` asks for."""

    def choose(self, match: int, found: int) -> int:
        """All."""
        return found

    def judged(self, match: int, came_true: bool) -> None:
        """Learns nothing."""

    def took(self, width: int, seconds: float) -> None:
        """Learns nothing."""


class Drafter:
    """Guesses for one answer.

    Args:
        pace: how many to try.
        never: ids that end a guess: those that are never sampled, and those that end an answer.

    Attributes:
        drafted: guesses tried.
        accepted: those of them that came true.
        steps_s: seconds of the steps that read them.
    """

    def __init__(self, pace: Pace, never: Collection[int]) -> None:
        self.drafted = 0
        self.accepted = 0
        self.steps_s = 0.0
        self._pace = pace
        self._never = frozenset(never)
        self._guess: list[int] = []  # what is expected next, tried or not
        self._match = SHORTEST_MATCH

    def sampled(self, token: int, *, was_read: bool) -> None:
        """Judge the guess by the token that was sampled in its place.

        Args:
            token: that was sampled.
            was_read: it was among the guesses that were tried.
        """
        self.accepted += was_read
        if not self._guess:
            return
        came_true = self._guess.pop(0) == token
        self._pace.judged(self._match, came_true)
        if not came_true:
            self._guess.clear()

    def draft(self, ids: NDArray[np.int32], most: int) -> list[int]:
        """What to append behind the text, [at most ``most``].

        Args:
            ids: the text, the newest token last.
            most: room for guesses.
        """
        if most <= 0:
            return []
        if len(self._guess) < most:
            self._guess, self._match = continuation(ids, most, self._never)
        tried = self._guess[: self._pace.choose(self._match, min(most, len(self._guess)))]
        self.drafted += len(tried)
        return tried

    def took(self, width: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        self._pace.took(width, seconds)
        if width > 1:
            self.steps_s += seconds


def continuation(ids: NDArray[np.int32], most: int, never: Collection[int] = ()) -> tuple[list[int], int]:
    """What followed when the text last ended like this, and how many tokens were alike.

    A text that repeats itself is continued in its rhythm, however short that is.

    Args:
        ids: [S].
        most: tokens wanted.
        never: the continuation ends before these.

    >>> continuation(np.array([1, 2, 3, 4, 9, 1, 2]), 3)
    ([3, 4, 9], 2)
    >>> continuation(np.array([7, 8, 7, 8]), 5)
    ([7, 8, 7, 8, 7], 2)
    """
    for length in range(min(LONGEST_MATCH, len(ids) - 1), SHORTEST_MATCH - 1, -1):
        starts = len(ids) - length  # earlier places at which so many tokens begin
        alike = np.ones(starts, np.bool_)
        for place in range(length):
            alike &= ids[place : place + starts] == ids[place - length]
        places = np.flatnonzero(alike)
        if len(places):
            return _goes_on(ids, int(places[-1]) + length, most, never), length
    return [], SHORTEST_MATCH


def _goes_on(ids: NDArray[np.int32], start: int, most: int, never: Collection[int]) -> list[int]:
    guess: list[int] = []
    for place in range(start, start + most):
        token = int(ids[place]) if place < len(ids) else guess[place - len(ids)]
        if token in never:
            break
        guess.append(token)
    return guess


def step_cost(width: int) -> float:
    """``STEP_COSTS``, continued."""
    return STEP_COSTS[width - 1] if width <= len(STEP_COSTS) else STEP_COSTS[-1] + FURTHER * (width - len(STEP_COSTS))


def drafter_for(
    options: GenerationOptions, manifest: Manifest, pace: Pace, never: Sequence[int] = ()
) -> Drafter | None:
    """The drafter of an answer; None where nothing is to be guessed.

    Raises:
        InputError: guesses are asked for, and the bundle cannot judge them.
    """
    if manifest.draft_rows == 1:
        if options.speculate:
            raise InputError(
                "option speculate: this bundle gives the logits of one position at a time, expected one that was "
                "exported with --speculation"
            )
        return None
    if options.speculate is False:
        return None
    return Drafter(EveryGuess() if options.speculate else pace, never)


__all__ = ["Drafter", "EveryGuess", "MeasuredPace", "Pace", "continuation", "drafter_for", "step_cost"]
