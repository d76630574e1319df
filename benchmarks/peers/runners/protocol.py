"""What every runner measures, in the same order; the only module that runners of all contenders share.

A runner runs in the contender's own environment: it may import this file, the standard library, numpy and its runtime.
It prints one line of JSON: load_s, by context (prefill_tok_s, decode_ms), rss_gb, peak_rss_gb.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np


class Runtime(Protocol):
    """A loaded model with an empty cache."""

    def prefill(self, ids: list[int]) -> int:
        """Empty the cache, read a prompt, return the most probable next token."""

    def step(self, token: int) -> int:
        """Read one token, return the most probable next one."""


def settings() -> dict[str, Any]:
    """The run's settings, one JSON object as the only argument: model, threads, contexts, answer, vocabulary, seed."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def measure(load: Callable[[], Runtime], given: dict[str, Any]) -> dict[str, Any]:
    """Load, then a short warm-up, then for each context a prompt of its length and an answer of fixed length."""
    started = time.perf_counter()
    runtime = load()
    found: dict[str, Any] = {"load_s": time.perf_counter() - started, "contexts": {}}
    runtime.step(runtime.prefill(prompt(given, 64, 1)))
    for context in given["contexts"]:
        ids = prompt(given, context, context)
        started = time.perf_counter()
        token = runtime.prefill(ids)
        prefill_s = time.perf_counter() - started
        times = []
        for _ in range(given["answer"]):
            started = time.perf_counter()
            token = runtime.step(token)
            times.append(1e3 * (time.perf_counter() - started))
        found["contexts"][context] = {"prefill_tok_s": len(ids) / prefill_s, "decode_ms": median(times)}
    return found | memory()


def prompt(given: dict[str, Any], length: int, seed: int) -> list[int]:
    """Random ids that no contender has seen before."""
    random = np.random.default_rng([given["seed"], seed])
    ids: list[int] = random.integers(0, given["vocabulary"], length).tolist()
    return ids


def memory() -> dict[str, float]:
    """Resident memory now and at most, in GB."""
    rows = (line.split() for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines())
    sizes = {row[0]: int(row[1]) * 1024 / 1e9 for row in rows if len(row) == 3 and row[2] == "kB"}
    return {"rss_gb": sizes["VmRSS:"], "peak_rss_gb": sizes["VmHWM:"]}


def finish(found: dict[str, Any]) -> None:
    """Print what was found as the last line."""
    print(json.dumps(found), flush=True)


def best(logits: Sequence[float]) -> int:
    """The most probable token."""
    return int(np.argmax(np.asarray(logits)))
