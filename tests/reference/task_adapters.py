"""Text tasks that the reference model's base does not do: one adapter is trained for each (``train_tasks``)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from palmtop.runtime.reference.text_tasks import is_held_out

VOWELS = "aeiou"


def draw(name: str, rng: np.random.Generator, *, held_out: bool) -> tuple[str, str]:
    """Draw (task, answer) of a kind from the held-out or the training part."""
    while True:
        task, answer = TASKS[name](rng)
        if is_held_out(task) == held_out:
            return task, answer


def _digits(rng: np.random.Generator, low: int, high: int) -> str:
    return "".join(map(str, rng.integers(0, 10, rng.integers(low, high + 1))))


def _sort(rng: np.random.Generator) -> tuple[str, str]:
    digits = _digits(rng, 3, 5)
    return f"sort: {digits}.", "".join(sorted(digits))


def _next(rng: np.random.Generator) -> tuple[str, str]:
    digits = _digits(rng, 3, 5)
    return f"next: {digits}.", "".join(str((int(digit) + 1) % 10) for digit in digits)


def _vowels(rng: np.random.Generator) -> tuple[str, str]:
    word = "".join("bcdfghklmnprstw"[rng.integers(15)] + VOWELS[rng.integers(5)] for _ in range(rng.integers(2, 5)))
    return f"vowels: {word}.", "".join(letter for letter in word if letter in VOWELS)


TASKS: dict[str, Callable[[np.random.Generator], tuple[str, str]]] = {
    "sort": _sort,
    "next": _next,
    "vowels": _vowels,
}
