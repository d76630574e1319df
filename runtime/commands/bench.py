"""``palmtop bench``: speed and memory of a bundle on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from palmtop.errors import OptionError
from palmtop.runtime.benchmark import BenchmarkResult, Spread, benchmark
from palmtop.runtime.bundle.manifest import MODES
from palmtop.runtime.memory.plan import megabytes
from palmtop.runtime.memory.processors import BUSY
from palmtop.runtime.plain_table import plain_table
from palmtop.runtime.session_options import SessionOptions

from .flags import bundle_argument, session_flags
from .progress import progress_bar

BUSY_NOTE = "palmtop: other processes"
EXAMPLES = """
\b
Examples:
  palmtop bench phi4mm-int4
  palmtop bench phi4mm-int4 --mode text --prompt-tokens 2048 --repeat 10
  palmtop bench phi4mm-int4 --threads 4 --json > laptop.json
"""


@click.command("bench", epilog=EXAMPLES, short_help="Measure a bundle's speed and memory.")
@bundle_argument
@click.option("--mode", "modes", multiple=True, help="text, image, audio or image+audio; repeatable (default: all).")
@click.option("--prompt-tokens", type=click.IntRange(1), default=512, show_default=True, help="Of text, about.")
@click.option("--answer-tokens", type=click.IntRange(2), default=32, show_default=True, help="Of each answer.")
@click.option(
    "--repeat", type=click.IntRange(1, 1000), default=5, show_default=True, help="Number of cold and of warm runs."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the questions.")
@session_flags
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def bench_command(
    bundle: Path,
    modes: tuple[str, ...],
    prompt_tokens: int,
    answer_tokens: int,
    repeat: int,
    seed: int,
    loading: SessionOptions,
    as_json: bool,
) -> None:
    """Measure the BUNDLE with random questions: median (smallest to largest) of several runs.

    Cold runs follow a fresh load in the same process; warm ones follow a cold one, with an empty KV cache. "of limit"
    is the part of the memory bandwidth, measured in the same run, that greedy decoding uses.
    """
    if unknown := set(modes) - set(MODES):
        raise OptionError("mode", f"found '{min(unknown)}', expected one of {', '.join(MODES)}")
    with progress_bar("answers") as progress:
        result = benchmark(
            bundle,
            loading,
            modes=modes,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            repeat=repeat,
            seed=seed,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        _show(result)
    if result.other_work is not None and result.other_work >= BUSY:
        click.echo(
            f"{BUSY_NOTE} took {result.other_work:.0%} of the processors: measure again when they rest", err=True
        )


def _show(result: BenchmarkResult) -> None:
    """Print a table for each mode: cold and warm runs beside each other."""
    for mode in dict.fromkeys(found.mode for found in result.measurements):
        runs = [found for found in result.measurements if found.mode == mode]
        rows = [
            [f"{mode}, {runs[0].prompt_tokens} tokens", *("warm" if run.warm else "cold" for run in runs)],
            ["load", *("" if run.load_s is None else f"{_text(run.load_s)} s" for run in runs)],
            ["encode", *(f"{_text(run.encode_s)} s" if run.media_rows else "" for run in runs)],
            ["first token", *(f"{_text(run.ttft_s)} s" for run in runs)],
            ["prefill", *(f"{_text(run.prefill_tokens_per_s, 0)} /s" for run in runs)],
            ["decode", *(f"{_text(run.decode_tokens_per_s, 1)} /s" for run in runs)],
            ["of limit", *(f"{result.roof_share(run):.0%}" for run in runs)],
            ["sampled", *(f"{_text(run.sampled_tokens_per_s, 1)} /s" for run in runs)],
        ]
        click.echo(plain_table([row for row in rows if any(row[1:])]) + "\n")
    if result.rss_bytes is not None and result.peak_rss_bytes is not None:
        resident, peak = megabytes(result.rss_bytes), megabytes(result.peak_rss_bytes)
        click.echo(f"resident memory {resident}, at most {peak}; context {result.context}")
    click.echo(f"memory is read at {result.read_bytes_per_s / 1e9:.1f} GB/s")


def _text(spread: Spread, digits: int = 2) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"
