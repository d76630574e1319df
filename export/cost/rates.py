"""Speed of this machine, measured in a fraction of a second, and the constants that turn it into an export's time.

``FACTORS`` is the only table of measured numbers, from runs whose real time is known: see each entry. To set it anew,
export a checkpoint with ``--json`` and multiply an entry by the real seconds of its phase over those in ``cost``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from palmtop.quantize import Quantizer
from palmtop.quantize.rtn import rtn
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.workers import usable_cores

FACTORS = {
    # writing a bundle, over the quantiser's own time: reading, converting, hashing. 5.6 B parameters, search, groups
    # of 128, 2 cores: 120 s.
    "write": 1.5,
    # a pass of the comparison over all weights (read, widen, subtract), over the time to round them to nearest. 40 M
    # parameters: 5.3 s of processor time for four passes, 0.8 s for rounding; 5.6 B: between 2 and 4 times.
    "pass": 5.0,
    # the comparison's layers, over the time of the same multiply-adds in one product. 5.6 B parameters, three questions
    # of each of four modes, 2 cores: 1,930 s of processor time; 30 minutes at a load of 3, 38 minutes at one of 10.
    "layers": 1.2,
    # calibration: float layers as above, second moments and the correction of the rounding error
    "statistics": 3.0,
}
OVERHEAD = {
    # seconds of building and writing one graph. 5 M parameters in three graphs: 3.0 s of processor time; 40 M in one:
    # 0.8 s.
    "graph": 1.0,
    # seconds of opening and calling a layer of the decoder for four questions of a mode, in one run of the comparison.
    # 4 layers, four modes, two adapters: 15 s of processor time; 10 layers, text alone: 4.3 s.
    "layer": 0.086,
}
PASSES = 4  # of the comparison: stored tensors, float reference, rounded weights, the decoder without adapters
PROBE = (32, 2048)  # rows and columns of the matrix that is quantised
SIDE = 64  # of the product, which is so small that the library computes it on one core
RUNS, PRODUCTS = 30, 200


@dataclass(frozen=True, slots=True)
class Rates:
    """Speed of this machine with its present load: that of an idle one times the share of it that is free.

    Attributes:
        quantized_per_s: weights that one thread quantises by the recipe's method, per second.
        rounded_per_s: weights that one thread rounds to nearest, per second.
        macs_per_s: multiply-adds of float32 products on all cores, per second.
        share: share of one core that a thread gets.
    """

    quantized_per_s: float
    rounded_per_s: float
    macs_per_s: float
    share: float = 1.0


def measure_rates(quantizer: Quantizer | None, scheme: Scheme | None) -> Rates:
    """Measure this machine.

    Args:
        quantizer: method of the recipe; None for floats, or for a method whose time is estimated otherwise.
        scheme: scheme of most of its weights; None for floats.
    """
    weight = np.random.default_rng(0).standard_normal(PROBE, np.float32)
    plain = Scheme(bits=4, group=32)
    rounded = weight.size / _seconds(lambda: rtn(weight, plain))
    quantized = rounded
    if quantizer is not None and scheme is not None:
        quantized = weight.size / _seconds(lambda: quantizer(weight, scheme, None))
    share = free_share()
    square = np.ones((SIDE, SIDE), np.float32)
    on_one_core = SIDE**3 / _seconds(lambda: square @ square, PRODUCTS)
    return Rates(quantized * share, rounded * share, on_one_core * usable_cores() * share, share)


def free_share() -> float:
    """Return the share of this machine's cores that a new process gets, by the load of the last minute."""
    try:
        waiting = os.getloadavg()[0]
    except OSError:  # not reported on this system
        return 1.0
    cores = usable_cores()
    return min(1.0, cores / (waiting + 1))


def _seconds(work: Callable[[], object], runs: int = RUNS) -> float:
    """Seconds of the fastest run: others were interrupted by other programs."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return max(min(times), 1e-9)
