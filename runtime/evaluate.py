"""Exact-match accuracy of a session on questions with one right answer, with confidence intervals."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from palmtop.errors import InputError
from palmtop.runtime.bundle.json_fields import kind_of
from palmtop.runtime.bundle.option_checks import reason_of
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.chat.routing import Wanted
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor.content import media_beside

WILSON_Z = 1.959964  # 95 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its expected answer.

    Attributes:
        task: name of the task; scores are computed for each task.
        messages: messages for ``Session.answer``.
        expected: the right answer.
        group: subdivision of the task; empty for none.
    """

    task: str
    messages: Sequence[Mapping[str, Any]]
    expected: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A question with the answer given and its score."""

    task: str
    group: str
    expected: str
    answer: str
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracy of a task, or of a group within it (``group`` empty: the whole task).

    Attributes:
        task: task of the questions.
        group: group of the questions.
        correct: number of right answers.
        total: number of questions.
        accuracy: correct / total.
        low: lower end of the Wilson 95 % interval.
        high: upper end of the interval.
    """

    task: str
    group: str
    correct: int
    total: int
    accuracy: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Return the score as plain JSON types."""
        return asdict(self)


class Answering(Protocol):
    """Interface of ``Session`` used for evaluation."""

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        adapters: Wanted = None,
        options: GenerationOptions = GenerationOptions(),  # noqa: B008 - frozen
    ) -> Reply:
        """Return the complete answer to messages."""


def evaluate(
    session: Answering,
    questions: Iterable[Question],
    *,
    adapters: Wanted = None,
    options: GenerationOptions,
    progress: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Ask every question once and score it; an answer is right if it equals the expected text, outer blanks ignored."""
    outcomes = []
    for question in questions:
        answer = session.answer(question.messages, adapters=adapters, options=options).text.strip()
        outcome = Outcome(
            task=question.task,
            group=question.group,
            expected=question.expected,
            answer=answer,
            correct=answer == question.expected.strip(),
        )
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    return outcomes


def scores(outcomes: Iterable[Outcome]) -> list[Score]:
    """Return the scores of each task in order of appearance: the whole task, then its groups by name."""
    tasks: dict[str, dict[str, list[bool]]] = {}
    for outcome in outcomes:
        groups = tasks.setdefault(outcome.task, defaultdict(list))
        groups[""].append(outcome.correct)
        if outcome.group:
            groups[outcome.group].append(outcome.correct)
    return [_score(task, group, tasks[task][group]) for task in tasks for group in sorted(tasks[task])]


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion.

    >>> [round(end, 3) for end in wilson_interval(9, 10)]
    [0.596, 0.982]
    """
    share, z2 = correct / total, WILSON_Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = WILSON_Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def read_questions(path: Path) -> Iterator[Question]:
    """Read questions from lines of {"messages", "expected", "task"?, "group"?}; media paths are relative to the file.

    Raises:
        InputError: the file cannot be read, or a line is not such an object; names the line.
    """
    for line, where in _lines(path):
        yield _question(line, where, path.parent, ("messages", "expected"))


def read_samples(path: Path) -> Iterator[Question]:
    """Read samples as ``read_questions`` does, with "expected" optional; a file without lines is refused.

    Raises:
        InputError: the file has no line, or as for ``read_questions``.
    """
    empty = True
    for line, where in _lines(path):
        empty = False
        yield _question(line, where, path.parent, ("messages",))
    if empty:
        raise InputError(f"{path}: has no line, expected at least one sample")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with its location."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # other Unicode line breaks may be inside a text
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}), expected lines of JSON") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield line, f"{path}:{number}"


def _score(task: str, group: str, marks: list[bool]) -> Score:
    low, high = wilson_interval(sum(marks), len(marks))
    share = sum(marks) / len(marks)
    return Score(task=task, group=group, correct=sum(marks), total=len(marks), accuracy=share, low=low, high=high)


def _question(line: str, where: str, folder: Path, needed: Sequence[str]) -> Question:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise InputError(f"{where}: is {kind_of(data)}, expected an object")
    for key, kind, expected in (("task", str, "text"), ("messages", list, "a list"), ("expected", str, "text")):
        if (key in needed or key in data) and not isinstance(data.get(key), kind):
            found = f"'{key}' is {kind_of(data[key])}" if key in data else f"has no '{key}'"
            raise InputError(f"{where}: {found}, expected {expected}")
    try:
        messages, _ = media_beside(data["messages"], folder)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return Question(
        task=data.get("task", "samples"),
        messages=messages,
        expected=data.get("expected", ""),
        group=str(data.get("group", "")),
    )
