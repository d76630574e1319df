"""GPTQ: quantise the weights of a row one by one, and correct the remaining weights for each error.

The correction follows from the second moments of the inputs: it keeps the outputs as close as the remaining weights
allow. Columns are processed by the size of their inputs, largest first, while the groups stay where onnxruntime's
kernels expect them; so the grid of every group is fixed beforehand. Afterwards scales and codes are improved once more
(``refine``), which makes the error of the outputs 7 to 9 % smaller.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
ICLR 2023, algorithm 1; the order of columns is the authors' ``--act-order`` with ``--static-groups``.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import QuantizeError

from .blocks import check, importance_groups, quantize_in_parts
from .pack import pack, unpack
from .refine import refine
from .scheme import QuantizedTensor, Scheme
from .search import search_range
from .statistics import Statistics

DAMPING = 0.01  # share of the mean of the diagonal that is added to it
BLOCK = 64  # columns whose corrections are collected and applied to the rest at once
# factors of each group's range, compared by the error in the outputs
SHRINKS = tuple(1 - step / 20 for step in range(11))
REFINED = 2  # passes; a third one gains another 1 %

_one_at_a_time = threading.Lock()


def gptq(weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /) -> QuantizedTensor:
    """Quantise a matrix row by row with GPTQ; see ``Quantizer``.

    Raises:
        QuantizeError: no statistics are given.
    """
    if statistics is None:
        raise QuantizeError("gptq needs statistics of the inputs, found none")
    check(weight)
    rows, columns = weight.shape
    importance = importance_groups(statistics.importance, scheme)
    start = quantize_in_parts(weight, scheme, lambda groups: search_range(groups, scheme, importance, SHRINKS))
    solution = _solution(statistics)
    groups = scheme.groups_per_row(columns)
    zeros = _zero_points(start, groups)
    codes, scales = np.empty_like(weight), start.scales.copy()
    codes[:, solution.order] = _code_columns(weight[:, solution.order], scheme, scales, zeros, solution)
    refine(weight, scheme, codes, scales, zeros, statistics.moments, solution.damping, REFINED)
    padded = np.broadcast_to(zeros[..., None], (rows, groups, scheme.group)).reshape(rows, -1).copy()
    padded[:, :columns] = codes
    return QuantizedTensor(
        scheme=scheme,
        columns=columns,
        codes=pack(padded.reshape(rows, groups, scheme.group).astype(np.uint8), scheme.bits),
        scales=scales,
        zero_points=start.zero_points,
    )


def _zero_points(tensor: QuantizedTensor, groups: int) -> NDArray[np.float32]:
    if tensor.zero_points is None:
        return np.full((len(tensor.codes), groups), tensor.scheme.middle, np.float32)
    return unpack(tensor.zero_points, tensor.scheme.bits, groups).astype(np.float32)


class _Solution:
    """Order of columns and error propagation that follow from the second moments.

    Attributes:
        order: [K] columns, those with the largest inputs first.
        damping: value added to the moments' diagonal.
        factor: [K, K] upper Cholesky factor of the inverse second moments, in that order.
    """

    def __init__(self, statistics: Statistics) -> None:
        moments = statistics.moments.astype(np.float64)
        diagonal = np.diagonal(moments).copy()
        self.order = np.argsort(-diagonal, kind="stable")
        self.damping = max(DAMPING * float(diagonal.mean()), 1e-12)
        moments = moments[np.ix_(self.order, self.order)]
        moments[np.diag_indices_from(moments)] += self.damping
        inverse = np.linalg.inv(moments)
        self.factor = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)


def _solution(statistics: Statistics) -> _Solution:
    """Compute the solution once for all parts of a matrix, which share the statistics."""
    with _one_at_a_time:
        return _solved(statistics)


@lru_cache(maxsize=1)
def _solved(statistics: Statistics) -> _Solution:
    return _Solution(statistics)


def _code_columns(
    weight: NDArray[np.float32],
    scheme: Scheme,
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32],
    solution: _Solution,
) -> NDArray[np.float32]:
    """Codes [N, K] of weights in the solution's order, on the grids [N, K/G] of the groups."""
    left = weight.T.copy()  # [K, N]: a column is contiguous
    codes = np.empty_like(left)
    group_of = solution.order // scheme.group
    steps = np.where(scales != 0, scales, np.float32(1)).T.copy()  # [K/G, N]
    centres = zeros.T.copy()
    for begin in range(0, len(left), BLOCK):
        end = min(begin + BLOCK, len(left))
        errors = np.empty((end - begin, left.shape[1]), np.float32)
        for column in range(begin, end):
            step, zero = steps[group_of[column]], centres[group_of[column]]
            code = (np.rint(left[column] / step) + zero).clip(0, scheme.levels)
            codes[column] = code
            factor = solution.factor[column]
            error = (left[column] - (code - zero) * step) / factor[column]
            errors[column - begin] = error
            left[column + 1 : end] -= factor[column + 1 : end, None] * error
        left[end:] -= solution.factor[begin:end, end:].T @ errors
    return codes.T
