"""Activation-aware quantisation: weights that meet large inputs are kept more exact than others.

Two steps. ``channel_scales`` finds a factor for every input channel; the weights are multiplied by it before
they are quantised and the inputs divided by it, which whoever builds the graph folds into the layer before.
``awq`` then clips each group's range by the error in the outputs instead of the error in the weights.

Source: Lin et al., "AWQ: Activation-aware Weight Quantization", MLSys 2024, sections 3.2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import QuantizeError

from .blocks import importance_groups, quantize_in_parts
from .rtn import dequantize
from .scheme import QuantizedTensor, Scheme
from .search import search_range
from .statistics import Statistics

SHRINKS = tuple(1 - step / 20 for step in range(11))
POWERS = tuple(step / 10 for step in range(10))  # of the inputs' size; 0 leaves the weights as they are
SAMPLE_ROWS = 1024  # of a matrix that the powers are tried on


def awq(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    """Quantise a matrix row by row, group by group; see ``Quantizer``.

    Raises:
        QuantizeError: there are no statistics.
    """
    if statistics is None:
        raise QuantizeError("awq needs statistics of the inputs, found none")
    importance = importance_groups(statistics.importance, scheme)
    return quantize_in_parts(weight, scheme, lambda groups: search_range(groups, scheme, importance, SHRINKS))


def channel_scales(
    weights: Sequence[NDArray[np.float32]], scheme: Scheme, statistics: Statistics, shared: int = 1
) -> NDArray[np.float32]:
    """Factors of the input channels that make a quantised layer's outputs most exact.

    Args:
        weights: [N, K] matrices that read the same inputs.
        scheme: they will be quantised with.
        statistics: of the inputs.
        shared: so many equal runs of channels must have the same factors (query heads of one key head).

    Returns:
        [K] positive float32, geometric mean 1; all 1 where no factors help.
    """
    some = [w[:: max(1, len(w) // SAMPLE_ROWS)] for w in weights]
    size = np.sqrt(_over_runs(statistics.importance, shared))
    size = np.maximum(size, size.max() * np.float32(1e-4) + np.float32(1e-30))
    best, best_error = np.ones(len(size), np.float32), np.inf
    for power in POWERS:
        scales = (size**power).astype(np.float32)
        scales /= np.exp(np.log(scales).mean())
        inputs = statistics.scaled(scales)
        error = sum(inputs.output_error(dequantize(awq(w * scales, scheme, inputs)) - w * scales) for w in some)
        if error < best_error:
            best, best_error = scales, error
    return best


def _over_runs(importance: NDArray[np.float32], shared: int) -> NDArray[np.float32]:
    """Each channel's mean over the runs that must agree."""
    mean = importance.reshape(shared, -1).mean(axis=0)
    return np.tile(mean, shared).astype(np.float32)
