"""What merging task adapters costs: one, two and three in one LoRA, by method, as a table.

    python -m benchmarks.merged_adapters --items 200 --write       # the table of docs/adapters.md

The packaged task adapters (sort, next, vowels) and their merges are added to the packaged model's INT4 bundle, and
every task is asked under every adapter: exact match, greedy, on tasks that no adapter was trained on.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import numpy as np

import palmtop
from benchmarks.tables import machine, put_between
from palmtop.export.adapters.install import add_adapter
from palmtop.export.adapters.merge_job import Source, merge_sources
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.evaluate import Question, evaluate
from palmtop.runtime.reference import adapters_path, checkpoint_path
from palmtop.runtime.reference.text_tasks import INSTRUCTION, draw_task
from tests.reference.task_adapters import TASKS, draw

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"
MARK = "merged_adapters"
BASE_TASK = "the base's own"
METHODS = ("linear", "svd")
OPTIONS = GenerationOptions(max_tokens=16)


def questions(items: int) -> Iterator[Question]:
    """Held-out questions of every task and of the base's own."""
    for name in TASKS:
        for number in range(items):
            yield _question(name, *draw(name, np.random.default_rng(10**6 + number), held_out=True))
    for number in range(items):
        _, task, answer = draw_task(np.random.default_rng(10**6 + number), held_out=True)
        yield _question(BASE_TASK, task, answer)


def _question(name: str, task: str, answer: str) -> Question:
    messages = [{"role": "user", "content": f"{task} {INSTRUCTION}"}]
    return Question(task=name, messages=messages, expected=answer)


def merges() -> Iterator[tuple[str, tuple[str, ...], str, float]]:
    """(name, tasks, method, coefficient): each alone, all pairs, all three; the plain mean and the plain sum."""
    for count in range(2, len(TASKS) + 1):
        for tasks in itertools.combinations(TASKS, count):
            for method in METHODS:
                for label, weight in (("mean", 1.0 / count), ("sum", 1.0)):
                    yield f"{'-'.join(tasks)}-{method}-{label}", tasks, method, weight


def measure(bundle: Path, work: Path, items: int) -> dict[str, dict[str, float]]:
    """Accuracy by adapter and task; adapters are the packaged ones and every merge of them."""
    for name in TASKS:
        add_adapter(bundle, adapters_path() / name, name)
    for name, tasks, method, weight in merges():
        sources = [Source(str(adapters_path() / task), weight) for task in tasks]
        merge_sources(sources, work / name, method=method)
        add_adapter(bundle, work / name, name)
    asked = list(questions(items))
    found: dict[str, dict[str, float]] = {}
    with palmtop.load(bundle, context=256) as session:
        for name in ("none", *(a.name for a in session.manifest.adapters if a.file is not None)):
            outcomes = evaluate(session, asked, adapters={} if name == "none" else {name: 1.0}, options=OPTIONS)
            found[name] = {
                task: float(np.mean([o.correct for o in outcomes if o.task == task])) for task in (*TASKS, BASE_TASK)
            }
            click.echo(f"{name}: " + ", ".join(f"{t} {v:.1%}" for t, v in found[name].items()), err=True)
    return found


def report(found: Mapping[str, Mapping[str, float]], items: int) -> str:
    """The measured part of docs/adapters.md."""
    columns = (*TASKS, BASE_TASK)
    lines = [
        f"Exact match on {items} held-out items a task, INT4, {machine()}. A merged adapter's own tasks are bold.",
        "",
        f"| adapter | merged | method | coefficients | {' | '.join(columns)} |",
        "|---" * (4 + len(columns)) + "|",
    ]
    plain = [("none", (), "-", 0.0), *((name, (name,), "-", 1.0) for name in TASKS)]
    for name, tasks, method, weight in (*plain, *merges()):
        cells = [f"**{found[name][t]:.1%}**" if t in tasks else f"{found[name][t]:.1%}" for t in columns]
        label = " + ".join(tasks) or "none"
        lines.append(f"| {label} | {len(tasks)} | {method} | {weight:.2f} | {' | '.join(cells)} |")
    lines += ["", f"`python -m benchmarks.merged_adapters --items {items} --write`"]
    return "\n".join(lines)


@click.command()
@click.option("--items", type=click.IntRange(1), default=100, show_default=True, help="Questions of each task.")
@click.option("--write", is_flag=True, help="Put the table into docs/adapters.md.")
def main(items: int, write: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        bundle = export_model(checkpoint_path(), Path(temporary) / "bundle", Recipe())
        text = report(measure(bundle, Path(temporary), items), items)
    click.echo(text)
    if write:
        put_between(PAGE, MARK, text)


if __name__ == "__main__":
    main()
