"""How one answer is generated: its length, its sampling, its stop strings. Values only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from palmtop.errors import InputError

DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """Chosen anew for every turn.

    Attributes:
        max_tokens: longest answer, in tokens.
        temperature: 0 takes the most probable token each time; 1 samples from the model's own distribution.
        top_k: sample only from this many most probable tokens; 0 for all.
        top_p: sample only from the fewest tokens whose probabilities reach this sum.
        repetition_penalty: above 1 makes tokens that the sequence already holds less probable.
        seed: of the sampler; None draws one from the operating system.
        stop: the answer ends before the first of these strings.

    Raises:
        InputError: a value is out of its range.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more")
        _check("top_k", self.top_k, self.top_k >= 0, "0 or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1")
        _check("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < math.inf, "above 0")
        _check("seed", self.seed, self.seed is None or self.seed >= 0, "0 or more")
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise InputError(f"option stop: found {self.stop!r}, expected non-empty strings in a tuple")
        object.__setattr__(self, "stop", tuple(self.stop))


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(f"option {name}: found {value!r}, expected {expected}")
