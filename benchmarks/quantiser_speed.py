"""Speed and memory of the methods that need no statistics, in bytes of bf16 weights a second, on every core.

    python -m benchmarks.quantiser_speed --write

What is timed is the exporter's own way from a bf16 matrix to codes (``export/graph/linear.py``): rows are widened,
checked, quantised and packed in blocks by all cores; only the writing to disk is left out. Memory is counted in
blocks of the exporter, the float32 rows a core works on at a time: 4 MiB here, the parts of one matrix that are in
memory at once.
"""

from __future__ import annotations

import time
import tracemalloc
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.tables import machine, put_between
from palmtop.export.checkpoint.lazy_tensor import LazyTensor
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.linear import Precision, quantized
from palmtop.export.mixed_precision.bundle_size import CountingSink
from palmtop.export.recipe import CALIBRATED, METHODS
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.workers import BLOCK_BYTES, Workers, usable_cores

PAGE, MARK = Path(__file__).parent.parent / "docs" / "quantise.md", "quantiser speed"
SCHEMES = ((4, 32), (4, 128), (8, 32), (2, 32))


class Drain(CountingSink):
    """Takes blocks as a file would, and forgets them."""

    def __init__(self, workers: Workers) -> None:
        super().__init__("decoder")
        self.workers = workers

    def add_set(
        self,
        name: str,
        tensors: Sequence[tuple[str, tuple[int, ...], np.dtype[Any]]],
        blocks: Iterable[tuple[NDArray[Any], ...]],
    ) -> list[ir.ExternalTensor]:
        """Have every block made."""
        deque(blocks, maxlen=0)
        return super().add_set(name, tensors, ())


def run(weight: LazyTensor, scheme: Scheme, method: str, workers: Workers) -> None:
    """One matrix from bf16 to codes."""
    builder = GraphBuilder("speed", Drain(workers))
    quantized(builder, "matrix", weight, Precision(scheme=scheme, quantizer=METHODS[method]))


def measure(weight: LazyTensor, scheme: Scheme, method: str, workers: Workers, tries: int) -> tuple[float, float]:
    """(MB of bf16 a second in the best of a few tries, blocks of memory at the peak)."""
    best = np.inf
    for _ in range(tries):
        started = time.perf_counter()
        run(weight, scheme, method, workers)
        best = min(best, time.perf_counter() - started)
    tracemalloc.start()
    run(weight, scheme, method, workers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return 2 * float(np.prod(weight.shape)) / best / 1e6, peak / workers.block_bytes


@click.command()
@click.option("--rows", type=int, default=16384, show_default=True)
@click.option("--columns", type=int, default=3072, show_default=True)
@click.option("--threads", type=int, default=usable_cores, help="Default: every core.")
@click.option("--tries", type=int, default=3, show_default=True, help="The best one counts.")
@click.option("--write", is_flag=True, help="Renew the table of docs/quantise.md.")
def main(rows: int, columns: int, threads: int, tries: int, write: bool) -> None:
    """Print a line a method and scheme."""
    stored = np.random.default_rng(0).standard_normal((rows, columns), np.float32).astype(ml_dtypes.bfloat16)
    weight = LazyTensor("matrix", stored.shape, lambda start, stop: stored[start:stop].astype(np.float32))
    workers = Workers(threads=threads)
    lines = ["| method | scheme | MB/s of bf16 | blocks of memory |", "|---|---|---|---|"]
    for method in (name for name in METHODS if name not in CALIBRATED):
        for bits, group in SCHEMES:
            rate, peak = measure(weight, Scheme(bits=bits, group=group), method, workers, tries)
            lines.append(f"| `{method}` | {bits} bits in {group}s | {rate:.0f} | {peak:.1f} |")
            click.echo(lines[-1])
    if write:
        under = f"\n\nA block is {BLOCK_BYTES >> 20} MiB of float32; {threads} threads, {machine()}."
        put_between(PAGE, MARK, "\n".join(lines) + under)


if __name__ == "__main__":
    main()
