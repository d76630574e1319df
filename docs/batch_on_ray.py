"""The requests of a file, as ``palmtop batch`` takes them, answered over a cluster with Ray Data.

    pip install 'ray[data]'
    python docs/batch_on_ray.py questions.jsonl answers.jsonl --model phi4mm --workers 8 [--threads 4]

Each worker is a process of its own somewhere in the cluster, with the bundle and the media at the same paths as here.
Answers arrive in the order in which they are complete, and are written here; after an interruption or a kill the same
command answers what is left, and so does ``palmtop batch``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from palmtop.runtime.bundle.named_bundles import find_bundle
from palmtop.runtime.commands.batches.requests import Request, parse_request, read_requests, unanswered
from palmtop.runtime.commands.batches.runner import Runner
from palmtop.runtime.session_options import SessionOptions

BATCH = 16
"""Requests that a worker takes at a time; those with equal beginnings are neighbours, and are read once."""


class Answerer:
    """A worker: a loaded bundle and the answers to batches of requests.

    Args:
        folder: folder that paths of media are relative to.
        model: path or short name of the bundle.
        threads: threads of the native libraries; None for their default.
    """

    def __init__(self, folder: str, model: str, threads: int | None = None) -> None:
        self._runner = Runner(Path(folder), find_bundle(Path(model)), 600.0, SessionOptions(threads=threads))

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Return the lines of the answers to a batch of requests."""
        requests = [parse_request(line, number, "the batch") for number, line in enumerate(batch["request"], 1)]
        return {"answer": [json.dumps(answer, ensure_ascii=False) for answer in self._runner.answers(requests)]}


def row(request: Request) -> dict[str, str]:
    """Return a request as a row of a data set."""
    return {"request": json.dumps({"custom_id": request.custom_id, "url": request.url, "body": request.body})}


def main() -> None:
    """Answer what is left of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requests", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()

    import ray

    left = unanswered(read_requests(given.requests), given.output)
    if not left:
        return
    options = {"folder": str(given.requests.parent.resolve()), "model": given.model, "threads": given.threads}
    answers = ray.data.from_items([row(request) for request in left]).map_batches(
        Answerer,
        fn_constructor_kwargs=options,
        batch_size=BATCH,
        concurrency=given.workers,
        num_cpus=given.threads or 1,
    )
    with given.output.open("a", encoding="utf-8") as file:
        for answer in answers.iter_rows():
            file.write(answer["answer"] + "\n")
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
