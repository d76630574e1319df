"""Speed and memory of the methods that need no statistics, in bytes of bf16 weights a second.

python -m benchmarks.quantiser_speed
"""

from __future__ import annotations

import time
import tracemalloc

import click
import numpy as np

from palmtop.export.recipe import CALIBRATED, METHODS
from palmtop.quantize.scheme import Scheme


@click.command()
@click.option("--rows", type=int, default=5461, show_default=True, help="A block of the exporter: 64 MiB of float32.")
@click.option("--columns", type=int, default=3072, show_default=True)
def main(rows: int, columns: int) -> None:
    """Print a line a method and scheme; memory is numpy's, beyond the block itself."""
    weight = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    for method in (name for name in METHODS if name not in CALIBRATED):
        for bits, group in ((4, 32), (4, 128), (8, 32)):
            scheme = Scheme(bits=bits, group=group)
            best = np.inf
            for _ in range(3):
                started = time.perf_counter()
                METHODS[method](weight, scheme)
                best = min(best, time.perf_counter() - started)
            tracemalloc.start()
            METHODS[method](weight, scheme)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            rate = 2 * weight.size / best / 1e6
            click.echo(
                f"{method:7} {bits} bits in {group:3}s: {rate:5.0f} MB/s, {peak / weight.nbytes:.2f} blocks of memory"
            )


if __name__ == "__main__":
    main()
