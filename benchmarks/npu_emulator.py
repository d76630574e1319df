"""The packaged model on QNN's HTP emulator against the CPU: right answers by mode, features, operators, sizes.

    pip install '.[export,qnn]' && python -m benchmarks.npu_emulator --items 60 --write

Exports the packaged checkpoint with ``--target qnn``, asks both providers the same held-out questions and renews the
table of docs/npu.md. The emulator answers a question in about 5 s (2 cores, shared): 60 of each mode take half an hour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import palmtop
from benchmarks.paired_accuracy import paired_difference
from benchmarks.tables import machine, put_between
from palmtop.export.convert import export_model
from palmtop.export.providers.qnn.compile import binary_of, snr_db
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.evaluate import Question, evaluate
from palmtop.runtime.processor import Processor
from palmtop.runtime.providers.placed import node_counts
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import TASKS, held_out_items
from palmtop.runtime.session import Session

PAGE = Path(__file__).parents[1] / "docs" / "npu.md"
CONTEXT, CHUNK = 256, 32  # the packaged model's questions have 14 to 40 tokens
PLACEMENTS = {"whole": "qnn", "encoders": {"vision": "qnn", "audio": "qnn"}}


def answers(bundle: Path, provider: Any, task: Any, items: int, skip: int) -> list[bool]:
    """Right or wrong, question by question."""
    questions = [
        Question(task=i.task, messages=i.messages, expected=i.expected, group=i.group)
        for i in list(held_out_items(task, skip + items, 0))[skip:]
    ]
    with palmtop.load(bundle, keep_encoders=True, provider=provider) as session:
        return [o.correct for o in evaluate(session, questions, options=GenerationOptions(max_tokens=32))]


def features(bundle: Path, items: int) -> dict[str, tuple[float, float]]:
    """By encoder (SNR in decibels, least cosine of a row) of QNN's features against the float32 bundle's."""
    with tempfile.TemporaryDirectory() as temporary:
        exact = export_model(checkpoint_path(), Path(temporary) / "float32", Recipe(bits=32))
        with palmtop.load(exact) as wanted, palmtop.load(bundle, provider=PLACEMENTS["encoders"]) as found:
            return {
                "vision": _compared(wanted, found, "image", items),
                "audio": _compared(wanted, found, "audio", items),
            }


def _compared(wanted: Session, found: Session, task: Any, items: int) -> tuple[float, float]:
    rows: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    processor = Processor(wanted.manifest.processor, wanted.bundle.path)
    for item in held_out_items(task, items, 1):
        for place in processor.prompt(item.messages).media:
            if place.item.kind == "image":
                tiles = processor.tiles(place.item)
                rows.append(tuple(s._encoders.encode_image(tiles) for s in (wanted, found)))
            else:
                sound = processor.sound(place.item)
                rows.append(tuple(s._encoders.encode_audio(sound, False) for s in (wanted, found)))
    a, b = (np.concatenate([pair[side] for pair in rows]) for side in (0, 1))
    cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return snr_db(a, b), float(cosine.min())


def accuracy_rows(bundle: Path, items: int, skip: int, tasks: Sequence[str], placement: str) -> list[str]:
    """Lines of the table, printed as they are made."""
    lines = ["| input | items | CPU | QNN | difference in points |", "|---|---|---|---|---|"]
    for task in tasks:
        cpu, qnn = (answers(bundle, provider, task, items, skip) for provider in ("cpu", PLACEMENTS[placement]))
        difference, low, high = (100 * x for x in paired_difference(cpu, qnn))
        lines.append(
            f"| {task} | {items} | {sum(cpu) / items:.1%} | {sum(qnn) / items:.1%} "
            f"| {difference:+.1f} ({low:+.1f} to {high:+.1f}) |"
        )
        lost = sum(a and not b for a, b in zip(cpu, qnn, strict=True))
        click.echo(f"{lines[-1]} {lost} lost, {lost + sum(qnn) - sum(cpu)} won")
    return lines


def operator_rows(bundle: Path) -> list[str]:
    """Lines of the table of graphs."""
    lines = ["| graph | nodes on QNN | on the CPU | binary |", "|---|---|---|---|"]
    opened = open_bundle(bundle)
    for file, found in node_counts(opened, "qnn"):
        binary = bundle / binary_of(file)
        size = f"{binary.stat().st_size / 1e6:.2f} MB" if binary.is_file() else "in the first decoder graph's"
        cpu = len(found.get("CPUExecutionProvider", []))
        lines.append(f"| {file.partition('_')[2]} | {sum(map(len, found.values())) - cpu} | {cpu} | {size} |")
        click.echo(lines[-1])
    return lines


@click.command()
@click.option("--items", type=int, default=60, show_default=True, help="Of each mode.")
@click.option("--skip", type=int, default=0, help="Leave out the first so many, to go on where a run ended.")
@click.option("--task", "tasks", multiple=True, default=TASKS)
@click.option("--placement", type=click.Choice([*PLACEMENTS]), default="whole", show_default=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="With a target qnn; made when not given.")
@click.option("--write", is_flag=True, help="Renew the tables of docs/npu.md.")
def main(items: int, skip: int, tasks: tuple[str, ...], placement: str, bundle: Path | None, write: bool) -> None:
    """Compare QNN's emulator with the CPU."""
    if write and (placement != "whole" or skip):
        raise click.UsageError("--write takes the whole model and every item: the page has no other table")
    with tempfile.TemporaryDirectory() as temporary:
        if bundle is None:
            recipe = Recipe(context=CONTEXT, chunk=CHUNK, target="qnn")
            bundle = export_model(checkpoint_path(), Path(temporary) / "qnn", recipe)
        operators = operator_rows(bundle)
        found = features(bundle, min(items, 12))
        for name, (snr, cosine) in found.items():
            click.echo(f"{name}: SNR {snr:.1f} dB, least cosine {cosine:.4f}")
        lines = accuracy_rows(bundle, items, skip, tasks, placement)
    if write:
        encoders = "; ".join(f"{n} {snr:.1f} dB (least cosine {c:.4f})" for n, (snr, c) in found.items())
        put_between(PAGE, "emulator graphs", "\n".join(operators))
        put_between(PAGE, "emulator accuracy whole", "\n".join([*lines, "", f"{machine()}."]))
        put_between(PAGE, "emulator features", f"{encoders}.")


if __name__ == "__main__":
    main()
