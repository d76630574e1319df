"""OpenVINO's CPU device against onnxruntime's own CPU kernels: right answers, and speed.

    python -m benchmarks.openvino --items 200 --page docs/npu.md        # the packaged model, INT4
    python -m benchmarks.openvino --bundle BUNDLE --page docs/npu.md    # speed of another, exported with --target

Both sides run the same bundle: the CPU side the gated graph through onnxruntime-genai, OpenVINO the static graphs
and the encoders as they are. Accuracy is paired, question by question, with its 95 % interval. On processors of
other makers than Intel the plugin is made to offer its CPU device (``tests/static/intel_device.py``).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import click
import numpy as np

import palmtop
from benchmarks.paired_accuracy import paired_difference
from benchmarks.tables import machine, put_between
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.quantize.workers import usable_cores
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.evaluate import Question, evaluate
from palmtop.runtime.providers.assignment import Provider
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import TASKS, held_out_items
from palmtop.runtime.session import load_session
from palmtop.runtime.session_options import SessionOptions
from tests.static.intel_device import register_openvino

CONTEXT, CHUNK = 1024, 128
ENCODERS: Provider = {"vision": "openvino", "audio": "openvino"}
STEPS = 20  # decode steps that are averaged
NOISE: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "image": lambda random: {"type": "image", "image": random.integers(0, 256, (448, 448, 3), dtype=np.uint8)},
    "audio": lambda random: {
        "type": "audio",
        "audio": ((random.standard_normal(5 * 16000) * 0.1).astype(np.float32), 16000),
    },
}
SIDES: dict[str, Provider] = {"cpu": "cpu", "encoders": ENCODERS, "openvino": "openvino"}


def answers(bundle: Path, task: Any, items: int, seed: int, provider: Provider) -> list[tuple[bool, str]]:
    """Right or wrong and the answer itself, question by question."""
    questions = [
        Question(task=i.task, messages=i.messages, expected=i.expected, group=i.group)
        for i in held_out_items(task, items, seed)
    ]
    with palmtop.load(bundle, context=CONTEXT, keep_encoders=True, provider=provider) as session:
        outcomes = evaluate(session, questions, options=GenerationOptions(max_tokens=32))
    return [(o.correct, o.answer) for o in outcomes]


def accuracy(bundle: Path, items: int, seed: int) -> list[dict[str, Any]]:
    """A row for each task: shares right, the paired difference in points, how many texts differ."""
    rows = []
    for task in TASKS:
        cpu, there = (answers(bundle, task, items, seed, SIDES[side]) for side in ("cpu", "openvino"))
        first, second = [right for right, _ in cpu], [right for right, _ in there]
        difference, low, high = paired_difference(first, second)
        if first == second:  # the interval has no width then; the rule of three gives it one
            low, high = -3 / items, 3 / items
        rows.append(
            {
                "task": task,
                "items": items,
                "cpu": sum(right for right, _ in cpu) / items,
                "openvino": sum(right for right, _ in there) / items,
                "points": 100 * difference,
                "low": 100 * low,
                "high": 100 * high,
                "other_texts": sum(a != b for (_, a), (_, b) in zip(cpu, there, strict=True)),
            }
        )
        click.echo(json.dumps(rows[-1]), err=True)
    return rows


def speed(bundle: Path, prompt: int, sides: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Processor seconds of all threads on each side: what other work on the machine disturbs least."""
    found = {}
    for side in sides:
        loading = SessionOptions(threads=usable_cores(), provider=SIDES[side], keep_encoders=True)
        found[side] = seconds(bundle, loading, prompt)
        click.echo(json.dumps({side: found[side]}), err=True)
    return found


def seconds(bundle: Path, loading: SessionOptions, prompt: int) -> dict[str, float]:
    """Of one side, by what was done."""
    begun, took = process_time(), {}
    with load_session(bundle, loading) as session:
        decoder = session._open_decoder()
        ids = np.random.default_rng(0).integers(0, session.manifest.decoder.vocab_size, prompt).astype(np.int32)
        decoder.append(ids)
        decoder.append(ids[:1])
        took["load"] = process_time() - begun
        decoder.rewind_to(0)
        took["prefill"] = timed(lambda: decoder.append(ids), 1)
        took["decode"] = timed(lambda: decoder.append(ids[:1]), STEPS)
        for mode in NOISE.keys() & set(session.manifest.modes):
            session.answer([noise(mode, 0)], max_tokens=1)
            question = [noise(mode, 1)]
            begun = process_time()
            session.answer(question, max_tokens=1)
            took[mode] = process_time() - begun
    return took


def timed(work: Callable[[], Any], times: int) -> float:
    """Processor seconds of one call."""
    begun = process_time()
    for _ in range(times):
        work()
    return (process_time() - begun) / times


def noise(mode: str, seed: int) -> dict[str, Any]:
    """A question with a picture of 448 x 448 or five seconds of sound that no cache has seen."""
    return {"role": "user", "content": [NOISE[mode](np.random.default_rng(seed)), {"type": "text", "text": "What?"}]}


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| task | items | CPU | OpenVINO | difference in points | other texts |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['task']} | {r['items']} | {r['cpu']:.1%} | {r['openvino']:.1%} "
        f"| {r['points']:+.1f} ({r['low']:+.1f} to {r['high']:+.1f}) | {r['other_texts']} |"
        for r in rows
    ]
    return "\n".join(lines)


def speed_table(found: dict[str, dict[str, float]], prompt: int) -> str:
    """Markdown, milliseconds."""
    media = [mode for mode in NOISE if mode in next(iter(found.values()))]
    heads = [
        "on",
        "load and first run",
        f"prefill, {prompt} tokens",
        "decode, 1 token",
        *(f"{m}, answered" for m in media),
    ]
    rows = [heads, ["---"] * len(heads)]
    names = {"cpu": "CPU", "encoders": "encoders on OpenVINO", "openvino": "OpenVINO"}
    for side, took in found.items():
        cells = (f"{1e3 * took[key]:.1f} ms" for key in ("load", "prefill", "decode", *media))
        rows.append([names[side], *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Measure this one's speed instead; no accuracy.")
@click.option("--items", type=int, default=200, show_default=True, help="Of each task; 0 leaves accuracy out.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--prompt", type=int, default=256, show_default=True, help="Tokens that are read at once.")
@click.option("--side", "sides", multiple=True, type=click.Choice(list(SIDES)), default=tuple(SIDES))
@click.option("--page", type=click.Path(path_type=Path), help="Markdown page whose tables are renewed.")
def main(
    bundle: Path | None,
    items: int,
    seed: int,
    prompt: int,
    sides: tuple[str, ...],
    page: Path | None,
) -> None:
    """Compare the CPU and OpenVINO."""
    if not register_openvino():
        raise click.ClickException("the plugin is not installed: pip install '.[openvino]'")
    with tempfile.TemporaryDirectory() as temporary:
        folder, name = bundle, "openvino speed of another bundle"
        if folder is None:
            recipe = Recipe(target="openvino", context=CONTEXT, chunk=CHUNK)
            folder, name = export_model(checkpoint_path(), Path(temporary) / "bundle", recipe), "openvino speed"
            if items:
                show("openvino accuracy", f"{accuracy_table(accuracy(folder, items, seed))}\n\n{machine()}.", page)
        found = speed(folder, prompt, sides)
        show(
            name,
            f"{speed_table(found, prompt)}\n\n{machine()}, {usable_cores()} cores, processor time of all threads.",
            page,
        )


def show(name: str, table: str, page: Path | None) -> None:
    """Print a table and put it into the page as soon as it is measured."""
    click.echo(f"{table}\n")
    if page is not None:
        put_between(page, name, table)


if __name__ == "__main__":
    main()
