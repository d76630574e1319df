"""How much sooner the second question about pictures is answered than the first.

    python -m benchmarks.second_question BUNDLE [--rows 1000] [--side 336] [--repeat 5]

The pictures are noise; there are as many of them as it takes for about ``--rows`` feature rows (one, where the
bundle's tiles are large). Printed: tokens read for each question, by count, and the times to the first token.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from typing import Any

import numpy as np

import palmtop
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import Session

OPTIONS = GenerationOptions(max_tokens=4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--side", type=int, default=336, help="of a picture, in pixels")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    with palmtop.load(arguments.bundle, context=2 * arguments.rows + 512, threads=arguments.threads) as session:
        rows = _count(session, 1, arguments.side) - _count(session, 0, arguments.side)
        pictures = max(1, round(arguments.rows / rows))
        runs = [_run(session, pictures, arguments.side, seed) for seed in range(arguments.repeat)]
    found = {"pictures": pictures, "side_px": arguments.side, "runs": runs}
    print(json.dumps({**found, "median_ratio": median(run["ratio"] for run in runs)}, indent=1))


def _pictures(count: int, side: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [{"type": "image", "image": random.integers(0, 256, (side, side, 3), dtype=np.uint8)} for _ in range(count)]


def _count(session: Session, pictures: int, side: int) -> int:
    content = [*_pictures(pictures, side, 0), {"type": "text", "text": "?"}]
    return session.count_tokens([{"role": "user", "content": content}])


def _run(session: Session, pictures: int, side: int, seed: int) -> dict[str, Any]:
    conversation = session.conversation()
    content = [*_pictures(pictures, side, seed), {"type": "text", "text": "Read the number."}]
    first = conversation.chat(content, options=OPTIONS).result().usage
    second = conversation.chat("And what colour is it?", options=OPTIONS).result().usage
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
