"""What adapters cost: decode speed off and on, against ORT's own adapter files; adding and switching.

    python -m benchmarks.adapter_speed --layers 8                    # the table of docs/adapters.md
    python -m benchmarks.adapter_speed --layers 8 --write            # and put it there
    python -m benchmarks.adapter_speed --layers 1 --rounds 3         # to try it

Writes a checkpoint of Phi-4-multimodal's true sizes with this many layers and random weights, exports it with and
without adapters, and compares in one process: configurations take turns, ratios are medians of the rounds' own.
The work folder is used again where it is given; a second run only measures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import adapter_inputs
from benchmarks.adapter_page import ADD_MB, ADD_SECONDS, Row, report
from benchmarks.tables import put_between
from benchmarks.taking_turns import in_turns, ratio
from palmtop.export.adapters.graph import DecoderGraph
from palmtop.export.adapters.peft_writer import export_adapter
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from palmtop.runtime.chat.routing import choose
from palmtop.runtime.decoding.genai_decoder import GenaiDecoder
from palmtop.runtime.session import Session, SessionOptions

PAGE = Path(__file__).parents[1] / "docs" / "adapters.md"
MARK = "adapter_speed"
CONTEXT, PROMPT = 256, 16
BARE = "no adapters in the bundle"
GOALS = {"off": 0.97, "vision on": 0.90, "speech on": 0.82}
BUNDLE_ADAPTERS = 8


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
            options = (
                "--adapters",
                adapters,
                "--set",
                f"method={method}",
                "--set",
                f"group={group}",
                "--context",
                4096,
                "--no-verify",
            )
            _run("palmtop", "export", checkpoint, "-o", bundle, *options)
        bundles.append(bundle)
    return bundles[0], bundles[1]


def decode_rows(gated: Path, plain: Path, threads: int, rounds: int) -> list[Row]:
    """Speed without adapters, with all off, and with each of the checkpoint's on."""
    with _opened(plain, threads) as without, _opened(gated, threads) as session:
        bare, decoder = without._open_decoder(), session._open_decoder()
        contenders = {BARE: _step(bare), "off": _step(decoder, session, {})}
        goals = {BARE: None, "off": GOALS["off"]}
        for adapter in session.manifest.adapters:
            what = f"{adapter.name} on (r={adapter.rank})"
            contenders[what] = _step(decoder, session, {adapter.name: 1.0})
            goals[what] = GOALS[f"{adapter.name} on"]
        seconds = in_turns(contenders, rounds)
    return [_row(what, seconds, BARE, goal=goals[what]) for what in contenders]


def input_rows(gated: Path, plain: Path, work: Path, threads: int, rounds: int) -> list[Row]:
    """The same LoRA fed as inputs from an ``.onnx_adapter`` file, in turns with ours and with no adapters."""
    bundle, found = open_bundle(gated, hashes=False), []
    for adapter in bundle.manifest.adapters:
        deltas = DecoderGraph(bundle.file(bundle.manifest.decoder.file)).deltas(adapter.name)
        for kind in ("float32", "INT4"):
            folder = work / f"inputs-{adapter.name}-{kind}"
            adapter_inputs.remove(folder)
            try:
                without = open_bundle(plain, hashes=False)
                adapter_inputs.write_input_bundle(without, deltas, folder, is_float=kind == "float32")
                with _opened(plain, threads) as bare, _opened(gated, threads) as session:
                    arrays = _input_arrays(bundle)
                    inputs = adapter_inputs.InputDecoder(folder, arrays, context=CONTEXT, threads=threads)
                    what = f"{adapter.name} as {kind} .onnx_adapter (r={adapter.rank})"
                    contenders = {
                        BARE: _step(bare._open_decoder()),
                        "ours": _step(session._open_decoder(), session, {adapter.name: 1.0}),
                        what: _step(inputs),
                    }
                    seconds = in_turns(contenders, rounds if kind == "float32" else max(3, rounds // 4))
            finally:
                adapter_inputs.remove(folder)
            found.append(_row(what, seconds, BARE, slower_than_ours=ratio(seconds[what], seconds["ours"])))
    return found


def _row(
    what: str,
    seconds: Mapping[str, NDArray[np.float64]],
    base: str,
    *,
    goal: float | None = None,
    slower_than_ours: float | None = None,
) -> Row:
    return Row(
        what=what,
        tokens_per_s=1 / float(np.median(seconds[what])),
        ratio=ratio(seconds[base], seconds[what]),
        goal=goal,
        slower_than_ours=slower_than_ours,
    )


def _opened(bundle: Path, threads: int) -> Session:
    options = SessionOptions(context=CONTEXT, threads=threads, engine="genai")  # which also runs adapters as inputs
    return Session(open_bundle(bundle, hashes=False), options)


def _step(
    decoder: GenaiDecoder | adapter_inputs.InputDecoder,
    session: Session | None = None,
    weights: Mapping[str, float] | None = None,
) -> Callable[[], None]:
    """Decode one token; a change of gates between two tokens makes the cache meaningless, and no slower."""
    gates = None
    if session is not None and weights is not None:
        gates = choose(session.manifest, "text", weights).gates(session.manifest)
    if not decoder.token_count:
        decoder.append(np.arange(5, 5 + PROMPT, dtype=np.int32))

    def step() -> None:
        if isinstance(decoder, GenaiDecoder) and decoder.inputs.adapter_gates is not None:
            decoder.inputs.adapter_gates[:] = gates
        if decoder.token_count >= CONTEXT - 1:
            decoder.rewind_to(PROMPT)
        decoder.append(np.array([200], np.int32))

    return step


def _input_arrays(bundle: Bundle) -> dict[str, NDArray[Any]]:
    hidden = bundle.manifest.decoder.hidden_size
    return {
        "media_index": np.zeros(CONTEXT, np.int64),
        "media_features": np.zeros((1, hidden), np.float32),
        "rope_long": np.zeros(1, np.bool_),
    }


def switching_ms(gated: Path, threads: int, times: int = 200) -> float:
    """From one request's adapters to the next one's: choosing, writing the gates, forgetting the cache. Median."""
    with _opened(gated, threads) as session:
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
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        peft = Path(temporary) / "peft-vision"
        export_adapter(open_bundle(gated, hashes=False), "vision", peft)
        folder = Path(shutil.copytree(gated, Path(temporary) / "bundle"))  # onnxruntime refuses hard links
        out = _run("palmtop", "adapter", "add", folder, peft, "--name", "again", "--json")
    found: dict[str, float] = json.loads(out)
    return {"seconds": found["seconds"], "peak_rss_mb": found["peak_rss_bytes"] / 1e6}


def many(gated: Path, plain: Path, work: Path, threads: int, rounds: int) -> dict[str, float]:
    """A bundle with eight adapters, all r=256 but one: speed with all off and with the last one on, of no adapters."""
    bundle = open_bundle(gated, hashes=False)
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folder = Path(shutil.copytree(gated, Path(temporary) / "bundle"))
        packed = work / "vision.palmadapter"
        packed.unlink(missing_ok=True)
        _run("palmtop", "adapter", "pack", folder, "vision", "-o", packed)
        for number in range(len(bundle.manifest.adapters), BUNDLE_ADAPTERS):
            _run("palmtop", "adapter", "add", folder, packed, "--name", f"more-{number}")
        packed.unlink()
        with _opened(folder, threads) as session:
            last, decoder = session.manifest.adapters[-1].name, session._open_decoder()
            with _opened(plain, threads) as without:
                contenders = {
                    BARE: _step(without._open_decoder()),
                    "off": _step(decoder, session, {}),
                    "last on": _step(decoder, session, {last: 1.0}),
                }
                seconds = in_turns(contenders, rounds)
    return {name: ratio(seconds[BARE], times) for name, times in seconds.items()}


def _run(module: str, *arguments: object) -> str:
    """A command in a process of its own, so that its memory is its own; its standard output."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    click.echo("  " + " ".join(command[2:]), err=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@click.command()
@click.option("--layers", type=click.IntRange(1, 32), default=8, show_default=True)
@click.option("--group", type=int, default=128, show_default=True, help="Weights that share a scale.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(3), default=40, show_default=True, help="Of all configurations.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for checkpoint and bundles, kept.")
@click.option("--full-size", type=click.Path(exists=True, path_type=Path), help="Also add an adapter to this bundle.")
@click.option("--write", is_flag=True, help="Put the table into docs/adapters.md.")
def main(
    layers: int, group: int, threads: int, rounds: int, work: Path | None, full_size: Path | None, write: bool
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        place = (work or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        gated, plain = prepare(place, layers, group)
        rows = decode_rows(gated, plain, threads, rounds)
        rows += input_rows(gated, plain, place, threads, rounds)
        found: dict[str, Any] = {
            "group": group,
            "rows": [asdict(row) for row in rows],
            "switching_ms": switching_ms(gated, threads),
            "adding": [("this bundle", adding(gated, place), "")],
            "many": many(gated, plain, place, threads, rounds),
        }
        if full_size is not None:
            must = f" (must be {ADD_SECONDS} s and {ADD_MB:,} MB at most)"
            found["adding"].append(("the full-size bundle", adding(full_size, place), must))
    text = report(layers, threads, BUNDLE_ADAPTERS, found)
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
