"""``palmtop bench``: speed and memory of a bundle on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from palmtop.errors import OptionError
from palmtop.runtime.benchmark import BenchmarkResult, Spread, benchmark
from palmtop.runtime.bundle.manifest import MODES
from palmtop.runtime.memory.plan import megabytes
from palmtop.runtime.session_options import SessionOptions

from .flags import bundle_argument, session_flags
from .progress import progress_bar

EXAMPLES = """
\b
Examples:
  palmtop bench phi4mm-int4
  palmtop bench phi4mm-int4 --mode text --prompt-tokens 2048 --repeat 10
  palmtop bench phi4mm-int4 --threads 4 --json > laptop.json
"""
TABLE_WIDTH = 140  # in a pipe or a file


@click.command("bench", epilog=EXAMPLES, short_help="Measure a bundle's speed and memory.")
@bundle_argument
@click.option("--mode", "modes", multiple=True, help="text, image, audio or image+audio; repeatable (default: all).")
@click.option("--prompt-tokens", type=click.IntRange(1), default=512, show_default=True, help="Of text, about.")
@click.option("--answer-tokens", type=click.IntRange(2), default=32, show_default=True, help="Sampled each time.")
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

    Cold runs follow a fresh load in the same process; warm ones follow a cold one, with an empty KV cache.
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


def _show(result: BenchmarkResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("question", "")
    for name in ("tokens", "load s", "encode s", "first token s", "prefill/s", "decode/s"):
        table.add_column(name, justify="right")
    for found in result.measurements:
        table.add_row(
            found.mode,
            "warm" if found.warm else "cold",
            str(found.prompt_tokens),
            "" if found.load_s is None else _text(found.load_s),
            _text(found.encode_s) if found.media_rows else "",
            _text(found.ttft_s),
            _text(found.prefill_tokens_per_s, 0),
            _text(found.decode_tokens_per_s, 1),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(table)
    if result.rss_bytes is not None and result.peak_rss_bytes is not None:
        resident, peak = megabytes(result.rss_bytes), megabytes(result.peak_rss_bytes)
        console.print(f"resident memory {resident}, at most {peak}; context {result.context}")


def _text(spread: Spread, digits: int = 2) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"
