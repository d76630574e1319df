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
from pathlib import Path
from typing import Any

import click

import palmtop
from benchmarks.paired_accuracy import paired_difference
from benchmarks.tables import machine, put_between
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.export.workers import usable_cores
from palmtop.runtime.benchmark import BenchmarkResult, benchmark
from palmtop.runtime.evaluate import Question, evaluate
from palmtop.runtime.loading import SessionOptions
from palmtop.runtime.options import GenerationOptions
from palmtop.runtime.placement import Provider
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import TASKS, held_out_items
from tests.static.intel_device import register_openvino

CONTEXT, CHUNK = 512, 128
ENCODERS: Provider = {"vision": "openvino", "audio": "openvino"}
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


def speed(bundle: Path, modes: tuple[str, ...], prompt: int, repeat: int, sides: tuple[str, ...]) -> dict[str, Any]:
    """``palmtop bench`` on each side, every core used."""
    found = {}
    for side in sides:
        loading = SessionOptions(threads=usable_cores(), provider=SIDES[side], keep_encoders=True)
        result = benchmark(bundle, loading, modes=modes, prompt_tokens=prompt, answer_tokens=16, repeat=repeat)
        found[side] = result
        click.echo(json.dumps({side: result.to_dict()}), err=True)
    return found


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| task | items | CPU | OpenVINO | difference in points | other texts |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['task']} | {r['items']} | {r['cpu']:.1%} | {r['openvino']:.1%} "
        f"| {r['points']:+.1f} ({r['low']:+.1f} to {r['high']:+.1f}) | {r['other_texts']} |"
        for r in rows
    ]
    return "\n".join(lines)


def speed_table(found: dict[str, BenchmarkResult]) -> str:
    """Markdown: warm medians; loading from the cold runs."""
    lines = [
        "| question | on | load s | encode s | first token s | prefill tokens/s | decode tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {"cpu": "CPU", "encoders": "encoders OpenVINO", "openvino": "OpenVINO"}
    for place, cold in enumerate(next(iter(found.values())).measurements):
        if cold.warm:
            continue
        for side, result in found.items():
            first, warm = result.measurements[place : place + 2]
            load = f"{first.load_s.median:.2f}" if first.load_s else ""
            encode = f"{warm.encode_s.median:.2f}" if warm.media_rows else ""
            lines.append(
                f"| {warm.mode}, {warm.prompt_tokens} tokens | {names[side]} | {load} | {encode} "
                f"| {warm.ttft_s.median:.2f} | {warm.prefill_tokens_per_s.median:.0f} "
                f"| {warm.decode_tokens_per_s.median:.1f} |"
            )
    return "\n".join(lines)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Measure this one's speed instead; no accuracy.")
@click.option("--items", type=int, default=200, show_default=True, help="Of each task; 0 leaves accuracy out.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--mode", "modes", multiple=True, help="Of the speed table (default: all).")
@click.option("--prompt", type=int, default=256, show_default=True, help="Tokens of text of a question.")
@click.option("--repeat", type=int, default=3, show_default=True)
@click.option("--side", "sides", multiple=True, type=click.Choice(list(SIDES)), default=("cpu", "openvino"))
@click.option("--page", type=click.Path(path_type=Path), help="Markdown page whose tables are renewed.")
def main(
    bundle: Path | None,
    items: int,
    seed: int,
    modes: tuple[str, ...],
    prompt: int,
    repeat: int,
    sides: tuple[str, ...],
    page: Path | None,
) -> None:
    """Compare the CPU and OpenVINO."""
    if not register_openvino():
        raise click.ClickException("the plugin is not installed: pip install 'palmtop[openvino]'")
    with tempfile.TemporaryDirectory() as temporary:
        folder, name = bundle, "openvino speed of another bundle"
        if folder is None:
            recipe = Recipe(target="openvino", context=CONTEXT, chunk=CHUNK)
            folder, name = export_model(checkpoint_path(), Path(temporary) / "bundle", recipe), "openvino speed"
            if items:
                show("openvino accuracy", f"{accuracy_table(accuracy(folder, items, seed))}\n\n{machine()}.", page)
        found = speed(folder, modes, prompt, repeat, sides)
        show(name, f"{speed_table(found)}\n\n{machine()}, {usable_cores()} cores.", page)


def show(name: str, table: str, page: Path | None) -> None:
    """Print a table and put it into the page as soon as it is measured."""
    click.echo(f"{table}\n")
    if page is not None:
        put_between(page, name, table)


if __name__ == "__main__":
    main()
