"""What quantisation costs in right answers: two bundles on the same questions, with the interval of the difference.

    python benchmarks/paired_accuracy.py --items 1000

Exports the packaged checkpoint in float32 and in INT4 (or takes two bundles), asks both the packaged held-out
questions, and prints accuracy by task, the paired difference with its 95 % interval, and the bytes of the weight
files against the checkpoint's.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import palmtop
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.evaluate import Outcome, Question, evaluate
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import TASKS, held_out_items

Z = 1.959964


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float, float]:
    """Second - first as a share, with its 95 % interval (Wald, for paired proportions)."""
    count = len(first)
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    difference = (won - lost) / count
    error = math.sqrt(max(won + lost - (won - lost) ** 2 / count, 0.0)) / count
    return difference, difference - Z * error, difference + Z * error


def answers(bundle: Path, task: Any, items: int, seed: int) -> list[bool]:
    """Right or wrong, question by question."""
    questions = [
        Question(task=i.task, messages=i.messages, expected=i.expected, group=i.group)
        for i in held_out_items(task, items, seed)
    ]
    done = 0

    def progress(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty() and done % 20 == 0:
            click.echo(f"\r{bundle.name} {task} {done}/{items}", err=True, nl=False)

    with palmtop.load(bundle, context=1024, keep_encoders=True) as session:
        options = GenerationOptions(max_tokens=32)
        return [o.correct for o in evaluate(session, questions, options=options, progress=progress)]


def weight_bytes(folder: Path, pattern: str) -> int:
    """Of the files that hold weights."""
    return sum(p.stat().st_size for p in folder.glob(pattern))


@click.command()
@click.option("--items", type=int, default=500, show_default=True, help="Of each task.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--task", "tasks", multiple=True, default=TASKS)
@click.option("--checkpoint", type=click.Path(path_type=Path), default=checkpoint_path())
@click.option("--encoder-bits", type=int, help="Of the INT4 bundle's encoders.")
@click.option("--group", type=int, default=32, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    items: int,
    seed: int,
    tasks: tuple[str, ...],
    checkpoint: Path,
    encoder_bits: int | None,
    group: int,
    as_json: bool,
) -> None:
    """Compare a float32 and an INT4 bundle of the same checkpoint."""
    with tempfile.TemporaryDirectory() as temporary:
        exact = export_model(checkpoint, Path(temporary) / "float32", Recipe(bits=32))
        recipe = Recipe(encoder_bits=encoder_bits, group=group)
        small = export_model(checkpoint, Path(temporary) / "int4", recipe)
        share = weight_bytes(small, "weights/*.bin") / weight_bytes(checkpoint, "*.safetensors")
        rows = []
        for task in tasks:
            first, second = (answers(bundle, task, items, seed) for bundle in (exact, small))
            difference, low, high = paired_difference(first, second)
            rows.append(
                {
                    "task": task,
                    "items": items,
                    "float32": sum(first) / items,
                    "int4": sum(second) / items,
                    "difference": difference,
                    "low": low,
                    "high": high,
                }
            )
            if not as_json:
                r = rows[-1]
                click.echo(
                    f"{task:12} {items:5} items  float32 {r['float32']:.1%}  int4 {r['int4']:.1%}"
                    f"  difference {100 * difference:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"
                )
        if as_json:
            click.echo(json.dumps({"weight_share": share, "tasks": rows}))
        else:
            click.echo(f"weight files: {share:.3f} of the checkpoint's bytes")


if __name__ == "__main__":
    main()
