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
from palmtop.runtime.bundle.manifest import MAX_DRAFT_ROWS, Manifest

from .generation_options import GenerationOptions

LONGEST_MATCH, SHORTEST_MATCH = 4, 2
"""Tokens at the end of the text that are looked for further in front."""
FIRST_CHANCE = 0.5
"""Of a guess, before there were any; it moves by ``LEARNING`` towards what came true."""
LEARNING = 0.1
STEP_COSTS = (1.0, 1.0, 1.45, 1.8, 2.2, 2.5, 2.9, 3.3)
"""Seconds of a step with 0, 1, 2, ... guesses over those of a step without, before any was measured; no token is read
alone (``track``), so that the first guess is free. Two x86 cores with AVX2, full-size matrices at 4 bits and accuracy
level 4 (``benchmarks/speculation.py``). Each further guess: ``FURTHER``."""
FURTHER = 0.4
SMOOTHING, OTHERS, FORGETTING = 0.3, 0.03, 0.001
"""How far a measured time moves the cost of its own step and of the others, and how far those drift back to
``STEP_COSTS`` with every step without guesses, so that what a busy moment made look dear is tried again. Chosen by
simulation: where guesses do not pay they cost 8 % at most (``tests/runtime/test_prompt_lookup.py``)."""
LOOK_EVERY, LOOK_FAR = 50, 2
"""Steps after which this many guesses are tried, to see what they cost here."""
DEAREST = 4.0  # times as dear as reading the tokens one by one: more is a moment in which the machine stood still
SHORTEST_STEP_S = 1e-6


class Pace(Protocol):
    """How many guesses to try, and what it learns from."""

    def choose(self, match: int, found: int) -> int:
        """How many of so many guesses to try, after a match of this length."""

    def judged(self, match: int, came_true: bool) -> None:
        """A guess came true, or did not, whether it was tried or not."""

    def took(self, guesses: int, seconds: float) -> None:
        """A step with so many guesses took so long."""


class MeasuredPace:
    """As many guesses as the times and chances measured so far say pay off; the first one is free.

    One for each conversation: chances are those of its text, times those of its decoder.
    """

    def __init__(self) -> None:
        self._chance = dict.fromkeys(range(SHORTEST_MATCH, LONGEST_MATCH + 1), FIRST_CHANCE)
        self._least_s: float | None = None
        self._costs = _usual_costs()
        self._steps = 0

    def choose(self, match: int, found: int) -> int:
        """The number that gives most tokens per second, the smaller of equals; one before a step was measured."""
        if self._least_s is None:
            return min(1, found)
        if self._steps % LOOK_EVERY == 0:
            return min(LOOK_FAR, found)
        chance = self._chance[match]
        best, best_rate, expected, term = 0, 1.0, 1.0, 1.0
        for count in range(1, found + 1):
            term *= chance
            expected += term
            rate = expected / self._costs[count]
            if rate > best_rate:
                best, best_rate = count, rate
        return max(best, min(1, found))

    def judged(self, match: int, came_true: bool) -> None:
        """Move the chance of a guess after such a match."""
        self._chance[match] += LEARNING * (float(came_true) - self._chance[match])

    def took(self, guesses: int, seconds: float) -> None:
        """Move the cost of this step, and a little those of the other longer ones."""
        self._steps += 1
        if guesses <= 1:
            before = seconds if self._least_s is None else self._least_s
            self._least_s = max(before + SMOOTHING * (seconds - before), SHORTEST_STEP_S)
            self._move(_usual_costs(), FORGETTING)
        elif self._least_s is not None:
            found = min(seconds / self._least_s, DEAREST * guesses)
            times = (found - 1) / (step_cost(guesses) - 1)
            self._move([1 + (usual - 1) * times for usual in _usual_costs()], OTHERS)
            self._costs[guesses] += SMOOTHING * (found - self._costs[guesses])

    def _move(self, towards: list[float], share: float) -> None:
        self._costs = [cost + share * (goal - cost) for cost, goal in zip(self._costs, towards, strict=True)]


class EveryGuess:
    """Every guess is tried: what ``speculate=True`` asks for."""

    def choose(self, match: int, found: int) -> int:
        """All."""
        return found

    def judged(self, match: int, came_true: bool) -> None:
        """Learns nothing."""

    def took(self, guesses: int, seconds: float) -> None:
        """Learns nothing."""


class PromptLookup:
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

    def took(self, guesses: int, seconds: float) -> None:
        """A step with so many guesses took so long."""
        self._pace.took(guesses, seconds)
        if guesses:
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


def step_cost(guesses: int) -> float:
    """``STEP_COSTS``, continued."""
    last = len(STEP_COSTS) - 1
    return STEP_COSTS[guesses] if guesses <= last else STEP_COSTS[-1] + FURTHER * (guesses - last)


def _usual_costs() -> list[float]:
    return [step_cost(guesses) for guesses in range(MAX_DRAFT_ROWS)]


def drafter_for(
    options: GenerationOptions, manifest: Manifest, pace: Pace, never: Sequence[int] = ()
) -> PromptLookup | None:
    """The drafter of an answer; None where nothing is to be guessed.

    Raises:
        InputError: guesses are asked for, and the bundle cannot judge them.
    """
    if manifest.decoder.draft_rows == 1:
        if options.speculate:
            raise InputError(
                "option speculate: this bundle gives the logits of one position at a time, expected one that was "
                "exported with --set speculation=true"
            )
        return None
    if options.speculate is False:
        return None
    return PromptLookup(EveryGuess() if options.speculate else pace, never)


__all__ = ["EveryGuess", "MeasuredPace", "Pace", "PromptLookup", "continuation", "drafter_for", "step_cost"]
