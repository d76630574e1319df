"""Quantisation of a matrix on all cores: rows are independent, and numpy releases Python's lock."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from palmtop.quantize import Quantizer
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.statistics import Statistics

from .workers import Workers, usable_cores

CHUNK_WEIGHTS = 1 << 19  # share of a thread at a time


def on_every_core(quantizer: Quantizer) -> Quantizer:
    """Return the method for whole matrices, with their rows distributed over threads."""
    workers = Workers(threads=usable_cores())

    def quantize(
        weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /
    ) -> QuantizedTensor:
        step = max(1, CHUNK_WEIGHTS // max(1, weight.shape[-1]))
        if weight.ndim != 2 or step >= len(weight):  # starting a thread takes longer than a small matrix
            return quantizer(weight, scheme, statistics)
        chunks = [weight[start : start + step] for start in range(0, len(weight), step)]
        parts = list(workers.map(lambda chunk: quantizer(chunk, scheme, statistics), chunks))
        zeros = [part.zero_points for part in parts if part.zero_points is not None]
        return QuantizedTensor(
            scheme=scheme,
            columns=weight.shape[1],
            codes=np.concatenate([part.codes for part in parts]),
            scales=np.concatenate([part.scales for part in parts]),
            zero_points=np.concatenate(zeros) if zeros else None,
        )

    return quantize
