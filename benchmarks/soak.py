"""A thousand turns of text, pictures and sounds in one process: does memory, or the number of handles, grow?

    python -m benchmarks.soak BUNDLE [--turns 1000] [--warm 50] [--json]

Conversations of 20 to 30 turns, two at a time, each with media in random turns, some answers cancelled, some
retried, the history trimmed when the context is full. Exit code 1 when resident memory after the last turn is
more than 5 % above that after turn 50, or handles were lost.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from typing import Any

import numpy as np

import palmtop
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.memory.machine import rss_bytes
from palmtop.runtime.session import Session

ALLOWED_GROWTH = 1.05


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--warm", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with palmtop.load(arguments.bundle, context=1024, threads=arguments.threads) as session:
        rows = soak(session, arguments.turns, arguments.warm, arguments.seed)
    print(json.dumps(rows, indent=1))
    first, last = rows[0], rows[-1]
    growth = last["resident_bytes"] / first["resident_bytes"]
    print(f"growth of resident memory {growth:.3f}, handles {first['handles']} to {last['handles']}", file=sys.stderr)
    sys.exit(0 if growth <= ALLOWED_GROWTH and last["handles"] <= first["handles"] else 1)


def soak(session: Session, turns: int, warm: int, seed: int = 0) -> list[dict[str, Any]]:
    """Talk; what the process holds after ``warm`` turns and at ten later moments, the last one included."""
    random = np.random.default_rng(seed)
    talks: list[tuple[Conversation, int]] = []
    rows = []
    modes: dict[str, int] = {}
    moments = {warm, *np.linspace(warm, turns, 11).astype(int).tolist()}
    for turn in range(1, turns + 1):
        if len(talks) < 2:
            talks.append((session.conversation(system="Answer."), int(random.integers(20, 31))))
        place = int(random.integers(len(talks)))
        conversation, left = talks[place]
        mode = _turn(conversation, random)
        modes[mode] = modes.get(mode, 0) + 1
        talks[place] = conversation, left - 1
        if left == 1:
            conversation.close()
            del talks[place]
        if turn in moments:
            del conversation
            gc.collect()
            rows.append(
                {
                    "turn": turn,
                    "resident_bytes": rss_bytes(),
                    "handles": len(os.listdir("/proc/self/fd")),
                    "modes": {**modes},
                }
            )
    return rows


def _turn(conversation: Conversation, random: np.random.Generator) -> str:
    kind = random.choice(["text", "image", "audio"], p=[0.6, 0.2, 0.2])
    content: list[dict[str, Any]] = []
    if kind == "image":
        height, width = random.integers(40, 300, 2)
        content.append({"type": "image", "image": random.integers(0, 256, (height, width, 3), dtype=np.uint8)})
    elif kind == "audio":
        samples = (random.standard_normal(int(random.integers(8000, 64000))) * 0.1).astype(np.float32)
        content.append({"type": "audio", "audio": (samples, 16000)})
    content.append({"type": "text", "text": "one two three " * int(random.integers(1, 12))})
    seed = int(random.integers(1 << 31))
    options = GenerationOptions(max_tokens=int(random.integers(1, 17)), temperature=1.0, seed=seed, on_overflow="trim")
    answer = conversation.chat(content, options=options)
    if random.random() < 0.1:
        next(answer)
        answer.cancel()
    reply = answer.result()
    if random.random() < 0.1:
        conversation.retry(options=options).result()
    return reply.mode


if __name__ == "__main__":
    main()
