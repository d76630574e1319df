"""palmtop against other runtimes on one machine, in one run.

    python -m benchmarks.peers --gguf SmolLM2-135M-Instruct.Q4_1.gguf --contenders palmtop,llama.cpp,openvino
    python -m benchmarks.make_checkpoint --text-only --layers 8 -o true8
    python -m benchmarks.peers --checkpoint true8 --rounds 7 --json docs/data/peers.json --plots docs/peers

Every contender is installed and its bundle made from the one checkpoint or file before anything is measured (in
``--work``, kept for the next time). Then they take turns: each round runs every contender once, in a process of its
own, in an order that moves by one, and measures what the machine can do at most. Random ids, equal for all; prefill
and decoding of a fixed length at each context; medians of the rounds.
"""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.measured_process import measure
from benchmarks.tables import machine, put_between
from palmtop.runtime.bundle.json_fields import MANIFEST_FILE
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.memory.bandwidth import decode_bytes
from palmtop.runtime.memory.processors import OtherWork, usable_cores

from .contenders import CONTENDERS, Job, Ready
from .environments import PeerError
from .plots import write_plots
from .results import add_ratios, medians, table
from .roofs import roofs

ANSWER = 32  # tokens decoded at each context


def prepare(job: Job, names: list[str]) -> tuple[dict[str, Ready], dict[str, str]]:
    """Install and build; the contenders that are ready, and why others are not."""
    ready: dict[str, Ready] = {}
    left_out: dict[str, str] = {}
    for name in names:
        started = time.perf_counter()
        try:
            ready[name] = CONTENDERS[name](job)
        except PeerError as error:
            left_out[name] = str(error)
        click.echo(f"{name}: {left_out.get(name, f'ready, {time.perf_counter() - started:.0f} s')}", err=True)
    return ready, left_out


def run_once(one: Ready, given: dict[str, Any], work: Path) -> dict[str, Any]:
    """One run of one contender in a process of its own.

    Raises:
        PeerError: it failed.
    """
    settings = json.dumps(given | {"model": str(one.model)})
    done = measure([one.python, one.runner, settings], log=work / f"{one.runner.stem}.out")
    if done.code or not isinstance(done.output, dict):
        errors = done.errors.strip().splitlines()
        raise PeerError(f"its run failed with code {done.code}: {errors[-1] if errors else 'no message'}")
    return done.output | {"cpu_s": done.cpu_seconds}


def rounds_of(
    ready: dict[str, Ready], given: dict[str, Any], work: Path, count: int
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, float]], dict[str, str]]:
    """Take turns; the runs of each contender, the roofs of each round, and who failed."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ready}
    limits, failed, names = [], {}, list(ready)
    for number in range(count):
        limits.append(roofs(given["threads"]))
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if name in failed:
                continue
            try:
                runs[name].append(run_once(ready[name], given, work))
            except PeerError as error:
                failed[name] = str(error)
                del runs[name]
                continue
            first = next(iter(runs[name][-1]["contexts"].values()))
            shown = f"{first['prefill_tok_s']:.0f} tokens/s, {first['decode_ms']:.2f} ms"
            click.echo(f"round {number + 1}/{count}, {name}: {shown}", err=True)
    return runs, limits, failed


def size_gb(path: Path) -> float:
    """Of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e9


def vocabulary(ready: dict[str, Ready]) -> int:
    """Ids that every contender knows: those of our bundle, or few enough for any."""
    for one in ready.values():
        if (one.model / MANIFEST_FILE).exists():
            return open_bundle(one.model).manifest.decoder.vocab_size
    return 30_000


@click.command(epilog=__doc__)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder to start from."
)
@click.option(
    "--gguf", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The same file for all instead."
)
@click.option("--contenders", default=",".join(CONTENDERS), show_default=True, help="Names, with commas.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--contexts", default="512,2048", show_default=True, help="Tokens of prompts; 512,4096,16384 shows growth."
)
@click.option(
    "--threads", type=click.IntRange(1), default=usable_cores, help="Of every contender; default: every core."
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/peers"), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where the measurements go.")
@click.option("--plots", type=click.Path(path_type=Path), help="Folder for prefill, decode, load and memory as SVG.")
@click.option("--page", type=click.Path(path_type=Path), help="Markdown page whose table is renewed.")
@click.option("--only-prepare", is_flag=True, help="Install and build, measure nothing.")
def main(
    checkpoint: Path | None,
    gguf: Path | None,
    contenders: str,
    rounds: int,
    contexts: str,
    threads: int,
    work: Path,
    json_file: Path | None,
    plots: Path | None,
    page: Path | None,
    only_prepare: bool,
) -> None:
    """Install, build, take turns, and write what was measured."""
    source = checkpoint or gguf
    if source is None or (checkpoint and gguf):
        raise click.UsageError("expected --checkpoint FOLDER or --gguf FILE")
    names = contenders.split(",")
    if unknown := set(names) - set(CONTENDERS):
        raise click.UsageError(f"--contenders: found '{min(unknown)}', expected some of {', '.join(CONTENDERS)}")
    lengths = sorted(int(length) for length in contexts.split(","))
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    job = Job(source=source.resolve(), work=work, context=lengths[-1] + ANSWER + 8, threads=threads)
    ready, left_out = prepare(job, names)
    if only_prepare:
        return
    given = {"threads": threads, "contexts": lengths, "answer": ANSWER, "vocabulary": vocabulary(ready), "seed": 0}
    others = OtherWork()
    runs, limits, failed = rounds_of(ready, given, work, rounds)
    best = {name: median(limit[name] for limit in limits) for name in limits[0]}
    rows = []
    for name, done in runs.items():
        row = medians(name, done) | {"model_gb": size_gb(ready[name].model)}
        if (ready[name].model / MANIFEST_FILE).exists():
            row["decode_bytes"] = decode_bytes(open_bundle(ready[name].model).manifest, lengths[0])
        rows.append(row)
    add_ratios(rows, best)
    found = {
        "machine": machine().rpartition(", ")[0],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "source": source.name,
        "threads": threads,
        "rounds": rounds,
        "roofs": best,
        "other_work": others.share(),
        "left_out": left_out | failed,
        "rows": rows,
    }
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if plots is not None and rows:
        write_plots(found, plots)
    shown = table(found)
    if page is not None:
        put_between(page, f"peers {source.stem}", shown)
    click.echo(shown)


main()
