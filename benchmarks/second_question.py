"""How much sooner the second question about a picture is answered than the first.

    python -m benchmarks.second_question BUNDLE [--rows 1000] [--repeat 5]

The picture is noise, as large as it has to be for about ``--rows`` feature rows. Printed: tokens read for each
question, by count, and the times to the first token.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from typing import Any

import numpy as np

import palmtop
from palmtop.runtime.options import GenerationOptions
from palmtop.runtime.session import Session

OPTIONS = GenerationOptions(max_tokens=4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    with palmtop.load(arguments.bundle, context=arguments.rows + 512, threads=arguments.threads) as session:
        side = _side(session, arguments.rows)
        runs = [_run(session, side, seed) for seed in range(arguments.repeat)]
    print(json.dumps({"side_px": side, "runs": runs, "median_ratio": median(run["ratio"] for run in runs)}, indent=1))


def _picture(side: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _side(session: Session, rows: int) -> int:
    """The side of the largest square picture of at most so many rows."""
    side, step = 64, 32
    empty = session.count_tokens([{"role": "user", "content": ""}])
    while True:
        content = [{"type": "image", "image": _picture(side + step, 0)}]
        grown = session.count_tokens([{"role": "user", "content": content}]) - empty
        if grown > rows or side > 4096:
            return side
        side += step


def _run(session: Session, side: int, seed: int) -> dict[str, Any]:
    conversation = session.conversation()
    image = {"type": "image", "image": _picture(side, seed)}
    first = conversation.say([image, {"type": "text", "text": "Read the number."}], options=OPTIONS).result().usage
    second = conversation.say("And what colour is it?", options=OPTIONS).result().usage
    conversation.close()
    return {
        "media_rows": first.media_rows,
        "first_read": first.prompt_tokens - first.cached_tokens,
        "second_read": second.prompt_tokens - second.cached_tokens,
        "first_ttft_s": first.ttft_s,
        "second_ttft_s": second.ttft_s,
        "ratio": first.ttft_s / second.ttft_s,
    }


if __name__ == "__main__":
    main()
