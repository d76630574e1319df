"""What adapters cost: decode speed off and on, against ORT's own adapter files; adding and switching.

    python -m benchmarks.adapter_speed --layers 8                    # the table of docs/adapters.md
    python -m benchmarks.adapter_speed --layers 8 --write            # and put it there
    python -m benchmarks.adapter_speed --layers 1 --tokens 8         # to try it

Writes a checkpoint of Phi-4-multimodal's true sizes with this many layers and random weights, exports it with and
without adapters, and compares in one process: configurations take turns token by token, ratios are of medians.
The work folder is used again where it is given; a second run only measures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import adapter_inputs
from benchmarks.tables import machine, put_between
from palmtop.export.adapters.graph import DecoderGraph
from palmtop.export.adapters.to_peft import export_adapter
from palmtop.runtime.bundle import Bundle, open_bundle
from palmtop.runtime.routing import choose
from palmtop.runtime.session import GenaiDecoder, Session, SessionOptions

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"
MARK = "adapter_speed"
CONTEXT, PROMPT = 256, 16
GOALS = {"off": 0.97, "vision on": 0.90, "speech on": 0.82}
FASTER_THAN_INPUTS = 4.0
BUNDLE_ADAPTERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: configuration.
        tokens_per_s: decode speed.
        ratio: against the bundle without adapters, measured in turns with it.
        goal: what the ratio must reach; None where there is none.
    """

    what: str
    tokens_per_s: float
    ratio: float
    goal: float | None = None


def prepare(work: Path, layers: int, group: int) -> tuple[Path, Path]:
    """Checkpoint and the bundles with and without adapters, made where they are not there."""
    checkpoint = work / "checkpoint"
    if not checkpoint.exists():
        _run("benchmarks.make_checkpoint", "-o", checkpoint, "--layers", layers, "--encoder-layers", 1)
    bundles = []
    for adapters in ("gated", "none"):
        bundle = work / f"{adapters}-{group}"
        if not bundle.exists():
            method = "search" if adapters == "gated" else "rtn"  # adapters added to it are quantised likewise
            options = ("--adapters", adapters, "--method", method, "--group", group, "--context", 4096, "--no-verify")
            _run("palmtop", "export", checkpoint, "-o", bundle, *options)
        bundles.append(bundle)
    return bundles[0], bundles[1]


def decode_rows(gated: Path, plain: Path, threads: int, tokens: int) -> list[Row]:
    """Speed without adapters, with all off, and with each of the checkpoint's on."""
    options = SessionOptions(context=CONTEXT, threads=threads)
    with (
        Session(open_bundle(plain, hashes=False), options) as without,
        Session(open_bundle(gated, hashes=False), options) as session,
    ):
        names = [a.name for a in session.manifest.adapters]
        ranks = {a.name: a.rank for a in session.manifest.adapters}
        decoders = {"": without._open_decoder(), "gates": session._open_decoder()}
        on = {f"{name} on": {name: 1.0} for name in names}
        seconds = _in_turns(decoders, session, {"no adapters in the bundle": {}, "off": {}, **on}, tokens)
    base = seconds["no adapters in the bundle"]
    rows = []
    for what, times in seconds.items():
        rank = f" (r={ranks[what.split()[0]]})" if what.split()[0] in ranks else ""
        ratio = float(np.median(base) / np.median(times))
        rows.append(Row(what=what + rank, tokens_per_s=1 / float(np.median(times)), ratio=ratio, goal=GOALS.get(what)))
    return rows


def _in_turns(
    decoders: Mapping[str, GenaiDecoder], session: Session, configurations: Mapping[str, dict[str, float]], tokens: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each token; a change of gates between two tokens makes the cache meaningless, and no slower."""
    for decoder in decoders.values():
        decoder.append(np.arange(5, 5 + PROMPT, dtype=np.int32))
    found: dict[str, list[float]] = {name: [] for name in configurations}
    for token in range(-2, tokens):  # two rounds to warm up
        for name, weights in configurations.items():
            decoder = decoders["" if name.startswith("no adapters") else "gates"]
            if decoder.inputs.adapter_gates is not None:
                decoder.inputs.adapter_gates[:] = choose(session.manifest, "text", weights).gates(session.manifest)
            if decoder.token_count >= CONTEXT - 1:
                decoder.rewind_to(PROMPT)
            started = time.perf_counter()
            decoder.append(np.array([200 + token], np.int32))
            if token >= 0:
                found[name].append(time.perf_counter() - started)
    return {name: np.array(times) for name, times in found.items()}


def input_rows(gated: Path, plain: Path, work: Path, rows: list[Row], threads: int, tokens: int) -> list[Row]:
    """The same LoRA fed as inputs from an ``.onnx_adapter`` file."""
    bundle, found = open_bundle(gated, hashes=False), []
    base = rows[0].tokens_per_s
    for adapter in bundle.manifest.adapters:
        deltas = DecoderGraph(bundle.file(bundle.manifest.decoder.file)).deltas(adapter.name)
        for kind in ("float32", "INT4"):
            folder = work / f"inputs-{adapter.name}-{kind}"
            adapter_inputs.remove(folder)
            try:
                without = open_bundle(plain, hashes=False)
                adapter_inputs.write_input_bundle(without, deltas, folder, is_float=kind == "float32")
                count = tokens if kind == "float32" else max(3, tokens // 8)
                speed = _input_speed(folder, bundle, threads, count)
            finally:
                adapter_inputs.remove(folder)
            what = f"{adapter.name} as {kind} .onnx_adapter (r={adapter.rank})"
            found.append(Row(what=what, tokens_per_s=speed, ratio=speed / base))
    return found


def _input_speed(folder: Path, bundle: Bundle, threads: int, tokens: int) -> float:
    hidden = bundle.manifest.decoder.hidden_size
    arrays = {
        "media_index": np.zeros(CONTEXT, np.int64),
        "media_features": np.zeros((1, hidden), np.float32),
        "rope_long": np.zeros(1, np.bool_),
    }
    return adapter_inputs.tokens_per_s(folder, arrays, context=CONTEXT, threads=threads, tokens=tokens)


def switching_ms(gated: Path, threads: int, times: int = 200) -> float:
    """From one request's adapters to the next one's: choosing, writing the gates, forgetting the cache. Median."""
    with Session(open_bundle(gated, hashes=False), SessionOptions(context=CONTEXT, threads=threads)) as session:
        decoder, manifest = session._open_decoder(), session.manifest
        found = []
        for turn in range(times):
            decoder.append(np.array([5], np.int32))
            wanted = {a.name: 0.3 + turn % 2 for a in manifest.adapters}
            started = time.perf_counter()
            gates = choose(manifest, "text", wanted).gates(manifest)
            assert decoder.inputs.adapter_gates is not None
            decoder.inputs.adapter_gates[:] = gates
            decoder.rewind_to(0)
            found.append(time.perf_counter() - started)
    return float(np.median(found)) * 1e3


def adding(gated: Path, work: Path) -> dict[str, float]:
    """Seconds and peak memory of adding the r=256 adapter again, as a PEFT folder, to a copy of the bundle."""
    bundle, peft = open_bundle(gated, hashes=False), work / "peft-vision"
    if not peft.exists():
        export_adapter(bundle, "vision", peft)
    with tempfile.TemporaryDirectory(dir=work) as temporary:  # copied: onnxruntime refuses hard links
        folder = Path(shutil.copytree(gated, Path(temporary) / "bundle"))
        out = _run("palmtop", "adapter", "add", folder, peft, "--name", "again", "--json")
    found: dict[str, float] = json.loads(out)
    return {"seconds": found["seconds"], "peak_rss_mb": found["peak_rss_bytes"] / 1e6}


def many(gated: Path, work: Path, threads: int, tokens: int) -> dict[str, float]:
    """A bundle with eight adapters, all r=256 but one: speed with all off, and with the last one on."""
    bundle = open_bundle(gated, hashes=False)
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folder = Path(shutil.copytree(gated, Path(temporary) / "bundle"))
        packed = work / "vision.palmadapter"
        packed.unlink(missing_ok=True)
        _run("palmtop", "adapter", "pack", folder, "vision", "-o", packed)
        for number in range(len(bundle.manifest.adapters), BUNDLE_ADAPTERS):
            _run("palmtop", "adapter", "add", folder, packed, "--name", f"more-{number}")
        packed.unlink()
        with Session(open_bundle(folder, hashes=False), SessionOptions(context=CONTEXT, threads=threads)) as session:
            last = session.manifest.adapters[-1].name
            decoders = {"gates": session._open_decoder()}
            seconds = _in_turns(decoders, session, {"off": {}, "last on": {last: 1.0}}, tokens)
    return {name: 1 / float(np.median(times)) for name, times in seconds.items()}


def report(layers: int, threads: int, found: Mapping[str, Any]) -> str:
    """The measured part of docs/adapters.md."""
    rows = [Row(**row) for row in found["rows"]]
    on = {row.what.split()[0]: row for row in rows if " on" in row.what}
    lines = [
        f"Phi-4-multimodal's sizes, {layers} layers, INT4, group {found['group']}, {threads} threads, {machine()}.",
        "",
        "| decoder | tokens/s | of the bundle without adapters | must be |",
        "|---|---|---|---|",
    ]
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:.2f}x"
        if ".onnx_adapter" in row.what:
            faster = on[row.what.split()[0]].tokens_per_s / row.tokens_per_s
            goal = f"ours {FASTER_THAN_INPUTS:.0f}x faster; is {faster:.1f}x"
        lines.append(f"| {row.what} | {row.tokens_per_s:.2f} | {row.ratio:.3f}x | {goal} |")
    add, eight = found["adding"], found["many"]
    lines += [
        "",
        f"Switching between two requests, prefill aside: {found['switching_ms']:.3f} ms (must be 1 ms at most).",
        f"Adding a LoRA of rank 256, float32, to this bundle: {add['seconds']:.1f} s and a peak of"
        f" {add['peak_rss_mb']:.0f} MB (must be 20 s and 1,000 MB at most with 32 layers).",
        f"A bundle with {BUNDLE_ADAPTERS} adapters: {eight['off']:.2f} tokens/s with all off,"
        f" {eight['last on']:.2f} with the last one on.",
        f"`python -m benchmarks.adapter_speed --layers {layers} --write`",
    ]
    return "\n".join(lines)


def _run(module: str, *arguments: object) -> str:
    """A command in a process of its own, so that its memory is its own; its standard output."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    click.echo("  " + " ".join(command[2:]), err=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@click.command()
@click.option("--layers", type=click.IntRange(1, 32), default=8, show_default=True)
@click.option("--group", type=int, default=128, show_default=True, help="Weights that share a scale.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--tokens", type=click.IntRange(3), default=100, show_default=True, help="Timed in each configuration.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for checkpoint and bundles, kept.")
@click.option("--write", is_flag=True, help="Put the table into docs/adapters.md.")
def main(layers: int, group: int, threads: int, tokens: int, work: Path | None, write: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        place = (work or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        gated, plain = prepare(place, layers, group)
        rows = decode_rows(gated, plain, threads, tokens)
        rows += input_rows(gated, plain, place, rows, threads, tokens)
        found = {
            "group": group,
            "rows": [asdict(row) for row in rows],
            "switching_ms": switching_ms(gated, threads),
            "adding": adding(gated, place),
            "many": many(gated, place, threads, tokens),
        }
    text = report(layers, threads, found)
    click.echo(text)
    if write:
        put_between(PAGE, MARK, text)
        click.echo(f"written into {PAGE}", err=True)
    missed = [f"{row.what}: {row.ratio:.3f}x" for row in rows if row.goal is not None and row.ratio < row.goal]
    if missed:
        click.echo("missed: " + "; ".join(missed), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
