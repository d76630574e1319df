"""``palmtop batch``: many requests from a file, each answered once, over interruptions too."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from palmtop.errors import InputError
from palmtop.runtime.bundle.named_bundles import BundlePath
from palmtop.runtime.commands.flags import open_session, session_flags
from palmtop.runtime.commands.progress import progress_bar
from palmtop.runtime.session import SessionOptions

from .requests import read_requests, unanswered
from .runner import Runner

EXAMPLES = """
\b
Examples:
  palmtop batch questions.jsonl -o answers.jsonl
  palmtop batch questions.jsonl -o answers.jsonl --model phi4mm-int4
  palmtop batch questions.jsonl -o answers.jsonl --workers 4 --context 4096
\b
A line of IN (paths are relative to its folder):
  {"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages":
   [{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                 {"type": "text", "text": "What is it?"}]}]}}
"""
FAILED_EXIT = 1


@click.command("batch", epilog=EXAMPLES, short_help="Answer a file of requests.")
@click.argument("requests", metavar="IN", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File of answers, one a line.")
@click.option("--model", type=BundlePath(), help="Bundle for all requests (default: body.model, a path or a name).")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Longest answer, seconds.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Requests at the same time.")
@session_flags
@click.option("--json", "as_json", is_flag=True, help="Print counts as one JSON object.")
def batch_command(
    requests: Path,
    output: Path,
    model: Path | None,
    timeout_s: float,
    workers: int,
    loading: SessionOptions,
    as_json: bool,
) -> None:
    """Answer the requests of IN, a file of OpenAI's batch lines; answers have OpenAI's form too.

    Each answer is written when it is complete. After an interruption or a kill the same command answers the others.
    Requests that begin alike follow one another, so that the beginning is read once. Workers share the weights, and
    each has a KV cache of its own; the context is chosen so that these fit. Exit code 1 when a request was refused; its
    line says why.
    """
    asked = read_requests(requests)
    left = unanswered(asked, output)
    counts = {"requests": len(asked), "answered_before": len(asked) - len(left), "answered": 0, "refused": 0}
    runner = Runner(requests.parent, model, timeout_s, loading, workers, open_session)
    try:
        file = output.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror})") from error
    with file, runner, progress_bar("requests") as progress:
        for number, answer in enumerate(runner.answers(left), 1):
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            counts["refused" if answer["response"]["status_code"] != 200 else "answered"] += 1
            if progress is not None:
                progress(number, len(left))
    if as_json:
        click.echo(json.dumps(counts))
    else:
        before = f", {counts['answered_before']} before" if counts["answered_before"] else ""
        click.echo(f"{output}: {counts['answered']} answered{before}, {counts['refused']} refused")
    if counts["refused"]:
        sys.exit(FAILED_EXIT)
