"""Time of drawing one token at a real vocabulary, for every option: ``python -m benchmarks.sampling``."""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import numpy as np

from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.sampling import Sampler

OPTIONS = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "top_k 50": {"temperature": 1.0, "top_k": 50},
    "top_k 1000": {"temperature": 1.0, "top_k": 1000},
    "top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "top_p 0.999, hot": {"temperature": 2.0, "top_p": 0.999},
    "top_k 50000, top_p 0.9": {"temperature": 1.0, "top_k": 50_000, "top_p": 0.9, "repetition_penalty": 1.2},
    "top_k 20, top_p 0.95": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "all": {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1},
}


def main() -> None:
    """Print milliseconds a token, for peaked logits (as a model's), flat ones, and with a grammar's mask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=200_064)
    parser.add_argument("--draws", type=int, default=100)
    given = parser.parse_args()
    random = np.random.default_rng(0)
    flat = random.standard_normal(given.vocabulary).astype(np.float32)
    peaked = flat * 2
    peaked[random.integers(0, given.vocabulary, 200)] += 12
    allowed = random.random(given.vocabulary) < 0.5
    print(f"{'ms a token, median':24}{'peaked':>8}{'flat':>8}{'masked':>8}")
    for name, values in OPTIONS.items():
        line = f"{name:24}"
        for logits, mask in ((peaked, None), (flat, None), (peaked, allowed)):
            options = GenerationOptions(seed=0, **values)  # type: ignore[arg-type]
            sampler = Sampler(options, never=(5, 6), seen=range(4000))
            times = []
            for _ in range(given.draws):
                started = perf_counter()
                sampler.draw(logits, mask)
                times.append(perf_counter() - started)
            line += f"{1000 * median(times):8.2f}"
        print(line)


if __name__ == "__main__":
    main()
