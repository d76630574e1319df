"""``palmtop evaluate``: accuracy on a file of questions, or on the reference model's held-out items."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import click

from palmtop.errors import InputError
from palmtop.runtime.chat.routing import AdapterRequest
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.evaluate import Outcome, Question, Score, evaluate, read_questions, scores
from palmtop.runtime.plain_table import plain_table
from palmtop.runtime.session import Session, SessionOptions

from .flags import adapter_flag, bundle_argument, open_session, session_flags

EXAMPLES = """
\b
Examples:
  palmtop evaluate reference-int4             # items of the packaged model
  palmtop evaluate reference-int4 --task image --items 500 --adapter none
  palmtop evaluate phi4mm-int4 questions.jsonl --json
\b
DATA is a file of questions; palmtop verify --samples takes the same. A line
(paths are relative to the file, "task" and "group" may be left out):
  {"task": "digits", "group": "photo", "expected": "407", "messages":
   [{"role": "user", "content": [{"type": "image", "image": "407.png"},
                                 {"type": "text", "text": "Read it."}]}]}
"""
MAX_TOKENS = 64


@click.command("evaluate", epilog=EXAMPLES, short_help="Measure accuracy on questions with known answers.")
@bundle_argument
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--items", type=click.IntRange(1), help="Questions of each task (default: all, or 100 held-out).")
@click.option("--task", "tasks", multiple=True, help="Only this task; repeatable.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the held-out items.")
@click.option("--max-tokens", type=click.IntRange(1), default=MAX_TOKENS, show_default=True, help="Per answer.")
@click.option("--wrong", is_flag=True, help="List wrong answers on standard error.")
@adapter_flag
@session_flags
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def evaluate_command(
    bundle: Path,
    data: Path | None,
    items: int | None,
    tasks: tuple[str, ...],
    seed: int,
    max_tokens: int,
    wrong: bool,
    adapters: AdapterRequest | None,
    loading: SessionOptions,
    as_json: bool,
) -> None:
    """Measure exact-match accuracy of the BUNDLE for each task and group, with Wilson's 95 % interval."""
    with open_session(bundle, loading) as session:
        questions = _questions(session, data, items, tasks, seed)
        started = perf_counter()
        with _progress(len(questions)) as advance:
            options = GenerationOptions(max_tokens=max_tokens, temperature=0.0)
            outcomes = evaluate(session, questions, adapters=adapters, options=options, progress=advance)
    seconds = perf_counter() - started
    if wrong:
        for outcome in outcomes:
            if not outcome.correct:
                click.echo(f"{outcome.task}: expected {outcome.expected!r}, found {outcome.answer!r}", err=True)
    if as_json:
        table = [score.to_dict() for score in scores(outcomes)]
        asked = {"adapters": None, "route": None} if adapters is None else asdict(adapters)
        click.echo(json.dumps({"bundle": str(bundle), **asked, "seconds": seconds, "scores": table}))
    else:
        _show(scores(outcomes))


def _questions(
    session: Session, data: Path | None, items: int | None, tasks: tuple[str, ...], seed: int
) -> list[Question]:
    """Return the questions of the file, or held-out ones for every mode that the bundle serves."""
    if data is None:
        from palmtop.runtime.reference import has_packaged_vocabulary
        from palmtop.runtime.reference.heldout import TASKS, held_out_items

        if not has_packaged_vocabulary(session.bundle.path / "tokenizer.json"):
            raise InputError(
                f"{session.bundle.path}: the packaged questions are of tasks that this model was not trained on,"
                " expected a file of questions with their answers"
            )

        if unknown := set(tasks) - set(TASKS):
            raise InputError(f"task '{min(unknown)}' is not held out, expected one of {', '.join(TASKS)}")
        wanted = [task for task in TASKS if task in (tasks or session.manifest.modes)]
        found = [item for task in wanted for item in held_out_items(task, items or 100, seed)]
        return [Question(task=i.task, messages=i.messages, expected=i.expected, group=i.group) for i in found]
    counts: dict[str, int] = {}
    questions = []
    for question in read_questions(data):
        counts[question.task] = counts.get(question.task, 0) + 1
        if (not tasks or question.task in tasks) and (items is None or counts[question.task] <= items):
            questions.append(question)
    if not questions:
        raise InputError(f"{data}: no question is left (tasks there: {', '.join(counts) or 'none'})")
    return questions


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Outcome], None] | None]:
    """Return a progress bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        correct = 0

        def advance(outcome: Outcome) -> None:
            nonlocal correct
            correct += outcome.correct
            bar.update(task, advance=1, description=f"{outcome.task}, {correct} right")

        yield advance


def _show(table: list[Score]) -> None:
    rows = [["task", "group", "right", "of", "accuracy", "95 % interval"]]
    for score in table:
        interval = f"{score.low:.1%} to {score.high:.1%}"
        right = [str(score.correct), str(score.total), f"{score.accuracy:.1%}", interval]
        rows.append([score.task, score.group, *right])
    click.echo(plain_table(rows, right={2, 3, 4, 5}))
