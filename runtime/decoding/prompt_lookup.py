"""Prompt lookup: draft tokens copied from earlier text (n-gram speculation), and how many to try.

A step of several tokens costs less than as many steps of one, because the weights are read once. Draft tokens are
appended behind the sampled token, and the logits of every position show which of them would have been sampled; those
are accepted, and the cache is rewound to the first other one. The sampler draws each token from the logits of its own
position, so the answer is the same with and without drafts, also with random sampling.

The number of draft tokens depends on two measured numbers: the acceptance rate and the cost of a longer step. This
module handles ids and seconds; it calls no decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import OptionError
from palmtop.runtime.bundle.manifest import MAX_DRAFT_ROWS, Manifest

from .generation_options import GenerationOptions

LONGEST_MATCH, SHORTEST_MATCH = 4, 2
"""Numbers of tokens at the end of the text that are searched for in earlier text: longest and shortest."""
FIRST_CHANCE = 0.5
"""Acceptance rate of a draft token before any was judged; it moves by ``LEARNING`` towards the observed results."""
LEARNING = 0.1
STEP_COSTS = (1.0, 1.0, 1.45, 1.8, 2.2, 2.5, 2.9, 3.3)
"""Relative cost of a step with 0, 1, 2, ... draft tokens before any was measured; 1 is a step without. No token is read
alone (``cached_sequence``), so the first draft token costs nothing. Two x86 cores with AVX2, full-size matrices at 4
bits and accuracy level 4 (``benchmarks/speculation.py``). Each further draft token adds ``FURTHER``.
"""
FURTHER = 0.4
SMOOTHING, OTHERS, FORGETTING = 0.3, 0.03, 0.001
"""Step sizes of the cost estimate: of a measured step's own cost, of the other costs, and of the return of all costs to
``STEP_COSTS`` with every step without drafts, so that costs measured on a busy machine are tried again. Chosen by
simulation: where drafts do not pay off they cost 8 % at most (``tests/runtime/test_prompt_lookup.py``).
"""
LOOK_EVERY, LOOK_FAR = 50, 2
"""Number of steps after which ``LOOK_FAR`` draft tokens are tried, to measure their cost on this machine."""
DEAREST = 4.0  # most of the cost of reading the tokens one by one: a larger value is a pause of the machine
SHORTEST_STEP_S = 1e-6


class Pace(Protocol):
    """Policy for the number of draft tokens, and receiver of its measurements."""

    def choose(self, match: int, found: int) -> int:
        """Return how many of ``count`` draft tokens to try after a match of this length."""

    def judged(self, match: int, came_true: bool) -> None:
        """Record whether a draft token was right, tried or not."""

    def took(self, guesses: int, seconds: float) -> None:
        """Record the seconds of a step with ``count`` draft tokens."""


class MeasuredPace:
    """Policy that tries as many draft tokens as measured times and acceptance rates justify.

    The first draft token costs nothing.

    One instance belongs to one conversation: the rates are those of its text, the times those of its decoder.
    """

    def __init__(self) -> None:
        self._chance = dict.fromkeys(range(SHORTEST_MATCH, LONGEST_MATCH + 1), FIRST_CHANCE)
        self._least_s: float | None = None
        self._costs = _usual_costs()
        self._steps = 0

    def choose(self, match: int, found: int) -> int:
        """Return the number with the most tokens per second, the smaller of equals; one before a step was measured."""
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
        """Move the acceptance rate of a draft token after a match of this length."""
        self._chance[match] += LEARNING * (float(came_true) - self._chance[match])

    def took(self, guesses: int, seconds: float) -> None:
        """Move the cost of this step, and by less those of the other longer ones."""
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
    """Policy that tries every draft token, for ``speculate=True``."""

    def choose(self, match: int, found: int) -> int:
        """Return the number of all draft tokens."""
        return found

    def judged(self, match: int, came_true: bool) -> None:
        """Do nothing with the result."""

    def took(self, guesses: int, seconds: float) -> None:
        """Do nothing with the time."""


class PromptLookup:
    """Draft tokens for one answer, and counts of those tried and accepted.

    Args:
        pace: policy for the number of draft tokens.
        never: ids that end a draft: those that are never sampled, and those that end an answer.

    Attributes:
        drafted: number of draft tokens tried.
        accepted: number of draft tokens that were sampled.
        steps_s: seconds of the steps that read draft tokens.
    """

    def __init__(self, pace: Pace, never: Collection[int]) -> None:
        self.drafted = 0
        self.accepted = 0
        self.steps_s = 0.0
        self._pace = pace
        self._never = frozenset(never)
        self._guess: list[int] = []  # expected next tokens, tried or not
        self._match = SHORTEST_MATCH

    def sampled(self, token: int, *, was_read: bool) -> None:
        """Compare the drafted token with the one that was sampled in its place.

        Args:
            token: the sampled id.
            was_read: whether it was among the draft tokens that were tried.
        """
        self.accepted += was_read
        if not self._guess:
            return
        came_true = self._guess.pop(0) == token
        self._pace.judged(self._match, came_true)
        if not came_true:
            self._guess.clear()

    def draft(self, ids: NDArray[np.int32], most: int) -> list[int]:
        """Return the draft tokens to append behind the text, at most ``most``.

        Args:
            ids: token ids of the text, the newest last.
            most: largest number of draft tokens.
        """
        if most <= 0:
            return []
        if len(self._guess) < most:
            self._guess, self._match = continuation(ids, most, self._never)
        tried = self._guess[: self._pace.choose(self._match, min(most, len(self._guess)))]
        self.drafted += len(tried)
        return tried

    def took(self, guesses: int, seconds: float) -> None:
        """Record the seconds of a step with ``count`` draft tokens."""
        self._pace.took(guesses, seconds)
        if guesses:
            self.steps_s += seconds


def continuation(ids: NDArray[np.int32], most: int, never: Collection[int] = ()) -> tuple[list[int], int]:
    """Return the tokens that followed the last earlier occurrence of the text's end, and the length of the match.

    A text that repeats itself is continued with the same period, however short that is.

    Args:
        ids: [S] token ids.
        most: largest number of tokens.
        never: ids; the continuation ends before the first of them.

    >>> continuation(np.array([1, 2, 3, 4, 9, 1, 2]), 3)
    ([3, 4, 9], 2)
    >>> continuation(np.array([7, 8, 7, 8]), 5)
    ([7, 8, 7, 8, 7], 2)
    """
    for length in range(min(LONGEST_MATCH, len(ids) - 1), SHORTEST_MATCH - 1, -1):
        starts = len(ids) - length  # earlier positions at which an equal run of tokens begins
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
    """Return the relative cost of a step, ``STEP_COSTS`` continued."""
    last = len(STEP_COSTS) - 1
    return STEP_COSTS[guesses] if guesses <= last else STEP_COSTS[-1] + FURTHER * (guesses - last)


def _usual_costs() -> list[float]:
    return [step_cost(guesses) for guesses in range(MAX_DRAFT_ROWS)]


def drafter_for(
    options: GenerationOptions, manifest: Manifest, pace: Pace, never: Sequence[int] = ()
) -> PromptLookup | None:
    """Return the prompt lookup of an answer; None if no draft tokens are wanted.

    Raises:
        InputError: ``speculate`` is True, and the bundle returns the logits of one position only.
    """
    if manifest.decoder.draft_rows == 1:
        if options.speculate:
            raise OptionError(
                "speculate",
                "this bundle gives the logits of one position at a time, expected one that was "
                "exported with --set speculation=true",
            )
        return None
    if options.speculate is False:
        return None
    return PromptLookup(EveryGuess() if options.speculate else pace, never)


__all__ = ["EveryGuess", "MeasuredPace", "Pace", "PromptLookup", "continuation", "drafter_for", "step_cost"]
