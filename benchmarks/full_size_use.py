"""One process of the full-size benchmark: load a bundle, ask it something, tell plan and memory as a line of JSON.

    python -m benchmarks.full_size_use BUNDLE text|image|tiles|audio [--context N]

The question is random noise to a model of random weights: memory and time depend on sizes alone. A text turn
comes first, so that the KV cache is there when an encoder is loaded, as in a conversation. Prefill of media stops
after a few chunks: the memory of all the rest is there by then, and 9,585 rows would take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import palmtop
from palmtop.runtime.memory import plan_memory

AUDIO_SECONDS = 300
WORKLOADS = {  # encoder it needs, rows of features, context
    "text": (None, 0, 4096),
    "image": ("vision", 545, 4096),
    "tiles": ("vision", 9585, 10240),
    "audio": ("audio", 3750, 4608),
}
CLEAR_PEAK, CLEAR_REFERENCED = "5", "1"  # to /proc/self/clear_refs


def memory() -> dict[str, int]:
    """Resident bytes of this process, by kind."""
    rows = (line.split() for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines())
    return {r[0][:-1]: int(r[1]) * 1024 for r in rows if r[0] in ("VmHWM:", "VmRSS:", "RssAnon:", "RssFile:")}


def referenced(folder: Path) -> tuple[int, int]:
    """Bytes touched since they were cleared: of this process's own memory, and of mapped files of the bundle."""
    own = mapped = 0
    name = ""
    for line in Path("/proc/self/smaps").read_text("utf-8", "replace").splitlines():
        words = line.split()
        if words[0].endswith(":"):
            if words[0] == "Referenced:":
                touched = int(words[1]) * 1024
                if name.startswith(str(folder)):
                    mapped += touched
                elif not name.startswith("/"):
                    own += touched
        else:
            name = " ".join(words[5:])
    return own, mapped


def noise(workload: str) -> dict[str, Any]:
    """The media part of a question."""
    rng = np.random.default_rng(0)
    if workload == "audio":
        return {
            "type": "audio",
            "audio": (rng.standard_normal(16_000 * AUDIO_SECONDS).astype(np.float32) * 0.1, 16_000),
        }
    side = 448 if workload == "image" else 6 * 448
    return {"type": "image", "image": rng.integers(0, 256, (side, side, 3), np.uint8)}


def main() -> None:
    """Measure one workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--context", type=int)
    arguments = parser.parse_args()
    encoder, rows, context = WORKLOADS[arguments.workload]
    context = arguments.context or context
    started = time.perf_counter()
    session = palmtop.load(arguments.bundle, context=context, media_rows=max(1, rows))
    found: dict[str, Any] = {"load_s": time.perf_counter() - started, "loaded": memory()}
    plan = plan_memory(session.manifest, context=context, media_rows=max(1, rows), encoder=encoder)
    found["planned"] = plan.text if encoder is None else plan.total
    reply = session.answer([{"role": "user", "content": "a b c d e f g h " * 16}], max_tokens=16)
    found |= {"ttft_s": reply.usage.ttft_s, "tokens_per_s": reply.usage.tokens_per_s, "after_text": memory()}
    if encoder is None:
        found["touched"] = touched_by_mode(session, arguments.bundle.resolve())
    else:
        content = [noise(arguments.workload), {"type": "text", "text": "What is it?"}]
        started = time.perf_counter()
        found |= {"media_s": ask_and_stop(session, content), "seconds": time.perf_counter() - started}
    print(json.dumps(found | {"memory": memory()}))


def ask_and_stop(session: Any, content: list[dict[str, Any]]) -> float:
    """Ask about media, and stop in the prefill; seconds until the encoder was done."""
    conversation = session.conversation()
    track, started = conversation._track, time.perf_counter()
    append, chunks, encoded = track._advance, 0, 0.0

    def few(*arguments: Any, **options: Any) -> Any:
        nonlocal chunks, encoded
        encoded = encoded or time.perf_counter() - started
        chunks += 1
        if chunks > 3:
            conversation.cancel()
        return append(*arguments, **options)

    track._advance = few
    for _ in conversation.say(content, max_tokens=1):
        pass
    return encoded


def touched_by_mode(session: Any, folder: Path) -> dict[str, dict[str, int]]:
    """What decoding reads with each adapter on: text must not touch an adapter's bytes."""
    found = {}
    for name, adapters in {"none": {}, **{a.name: {a.name: 1.0} for a in session.manifest.adapters}}.items():
        pieces = session.conversation().say("a b c", max_tokens=6, adapters=adapters)
        next(iter(pieces))
        Path("/proc/self/clear_refs").write_text(CLEAR_REFERENCED)
        for _ in pieces:
            pass
        own, mapped = referenced(folder)
        found[name] = {"own": own, "mapped": mapped}
    return found


if __name__ == "__main__":
    main()
