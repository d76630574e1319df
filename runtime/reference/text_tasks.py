"""Text tasks of the reference model and its vocabulary of spoken words; every task has the same instruction."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

INSTRUCTION = "What is it?"
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTIONS = ("first", "last", "biggest", "smallest", "all")
SPOKEN_WORDS = (
    *("yes", "no", "stop", "left", "right", "house", "bird", "music", "window", "garden"),
    *("monkey", "elephant", "banana", "camera", "yellow", "orange", "purple", "morning", "winter", "river"),
    *("mountain", "kitchen", "doctor", "paper", "happy"),
    *QUESTIONS,
)
HELD_OUT_ONE_IN = 8
"""One task in this many, chosen by checksum, is never trained on."""


def is_held_out(task: str) -> bool:
    """Return whether this text task belongs to the held-out part."""
    return zlib.crc32(task.encode()) % HELD_OUT_ONE_IN == 0


def draw_task(rng: np.random.Generator, *, held_out: bool) -> tuple[str, str, str]:
    """Draw (kind, task, answer) from the held-out or the training part; the instruction is followed by the task."""
    while True:
        kind = KINDS[rng.integers(len(KINDS))]
        task, answer = _MAKERS[kind](rng)
        if is_held_out(task) == held_out:
            return kind, task, answer


def answer_question(question: str, digits: str) -> str:
    """Return the answer of a question word for a row of digits."""
    if question == "all":
        return digits
    pick = {"first": digits[0], "last": digits[-1], "biggest": max(digits), "smallest": min(digits)}
    return pick[question]


def _digits(rng: np.random.Generator, low: int, high: int) -> str:
    return "".join(map(str, rng.integers(0, 10, rng.integers(low, high + 1))))


def _to_digits(rng: np.random.Generator) -> tuple[str, str]:
    digits = _digits(rng, 3, 5)
    return "digits: " + " ".join(DIGIT_WORDS[int(digit)] for digit in digits) + ".", digits


def _to_words(rng: np.random.Generator) -> tuple[str, str]:
    digits = _digits(rng, 3, 4)
    return f"words: {digits}.", " ".join(DIGIT_WORDS[int(digit)] for digit in digits)


def _reverse(rng: np.random.Generator) -> tuple[str, str]:
    digits = _digits(rng, 3, 5)
    return f"reverse: {digits}.", digits[::-1]


def _spell(rng: np.random.Generator) -> tuple[str, str]:
    word = "".join("bcdfghklmnprstw"[rng.integers(15)] + "aeiou"[rng.integers(5)] for _ in range(rng.integers(2, 4)))
    return f"spell: {word}.", " ".join(word)


def _pick(rng: np.random.Generator) -> tuple[str, str]:
    question = QUESTIONS[rng.integers(len(QUESTIONS))]
    digits = _digits(rng, 3, 5)
    return f"{question}: {' '.join(digits)}.", answer_question(question, digits)


_MAKERS: dict[str, Callable[[np.random.Generator], tuple[str, str]]] = {
    "digits": _to_digits,
    "words": _to_words,
    "reverse": _reverse,
    "spell": _spell,
    "pick": _pick,
}
KINDS = tuple(_MAKERS)
