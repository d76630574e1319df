"""One process of the full-size benchmark: load a bundle, ask it something, tell plan and memory as a line of JSON.

    python -m benchmarks.full_size_use BUNDLE text|image|tiles|audio [--context N]

The question is random noise to a model of random weights: memory and time depend on sizes alone. A text turn
comes first, so that the KV cache is there when an encoder is loaded, as in a conversation. Prefill of media stops
after a few chunks: the memory of all the rest is there by then, and 9,585 rows would take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measured_process import memory_of
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.media.encoder_runner import Encoders
from palmtop.runtime.memory.mapped_pages import mappings
from palmtop.runtime.memory.plan import plan_memory
from palmtop.runtime.session import Session
from palmtop.runtime.session_options import SessionOptions

AUDIO_SECONDS = 300
PREFILL_SECONDS = 10
WORKLOADS = {  # encoder it needs, rows of features, context
    "text": (None, 0, 4096),
    "image": ("vision", 545, 4096),
    "tiles": ("vision", 9585, 10240),
    "audio": ("audio", 3750, 4608),
}
CLEAR_REFERENCED = "1"  # to /proc/self/clear_refs


def memory() -> dict[str, int]:
    """Resident bytes of this process, by kind."""
    return {name: size for name, size in memory_of().items() if name in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def referenced(folder: Path) -> tuple[int, int]:
    """Bytes touched since they were cleared: of this process's own memory, and of mapped files of the bundle."""
    found = [(m.name, m.sizes["Referenced"]) for m in mappings()]
    own = sum(size for name, size in found if not name.startswith("/"))
    return own, sum(size for name, size in found if name.startswith(str(folder)))


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
    session, encoders = load(arguments.bundle, context, rows)
    found: dict[str, Any] = {"load_s": time.perf_counter() - started, "loaded": memory()}
    plan = plan_memory(session.manifest, context=context, media_rows=max(1, rows), encoder=encoder)
    found["planned"] = plan.text if encoder is None else plan.total
    conversation = session.conversation()
    *_, last = conversation.chat("a b c d e f g h " * 16, max_tokens=16)
    reply = last.reply
    assert reply is not None  # the last piece always has it
    found |= {"ttft_s": reply.usage.ttft_s, "tokens_per_s": reply.usage.tokens_per_s, "after_text": memory()}
    if encoder is None:
        found["touched"] = touched_by_mode(session, conversation, arguments.bundle.resolve())
    else:
        content = [noise(arguments.workload), {"type": "text", "text": "What is it?"}]
        encoders.stop = conversation.cancel
        for _ in conversation.chat(content, max_tokens=1):
            pass
        found["media_s"] = encoders.seconds
    print(json.dumps(found | {"memory": memory()}))


class Stopped(Encoders):
    """Encoders that have the answer stopped some seconds after they are done.

    Attributes:
        seconds: that encoding took.
        stop: what to call.
    """

    seconds = 0.0
    stop: Callable[[], None] = staticmethod(lambda: None)

    def encode_image(self, *arguments: Any, **options: Any) -> Any:
        """As ever."""
        return self._timed(super().encode_image, *arguments, **options)

    def encode_audio(self, *arguments: Any, **options: Any) -> Any:
        """As ever."""
        return self._timed(super().encode_audio, *arguments, **options)

    def _timed(self, encode: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        features = encode(*arguments, **options)
        self.seconds = time.perf_counter() - started
        threading.Timer(PREFILL_SECONDS, self.stop).start()
        return features


def load(path: Path, context: int, rows: int) -> tuple[Session, Stopped]:
    """A session whose encoders tell when they are done."""
    bundle = open_bundle(path)
    vision, audio = bundle.manifest.vision, bundle.manifest.audio
    encoders = Stopped(
        bundle.file(vision.file) if vision else None,
        bundle.file(audio.file) if audio else None,
        bundle.manifest.processor,
        tile_bytes=vision.bytes_per_item if vision else 0,
    )
    return Session(bundle, SessionOptions(context=context, media_rows=max(1, rows)), encoders=encoders), encoders


def touched_by_mode(session: Session, conversation: Conversation, folder: Path) -> dict[str, dict[str, int]]:
    """What decoding reads with each adapter on: text must not touch an adapter's bytes."""
    found = {}
    for name, adapters in {"none": {}, **{a.name: {a.name: 1.0} for a in session.manifest.adapters}}.items():
        pieces = conversation.chat("a b c", max_tokens=6, adapters=adapters)
        next(iter(pieces))
        Path("/proc/self/clear_refs").write_text(CLEAR_REFERENCED)
        for _ in pieces:
            pass
        own, mapped = referenced(folder)
        found[name] = {"own": own, "mapped": mapped}
    return found


if __name__ == "__main__":
    main()
