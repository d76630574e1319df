"""Experts of a mixture in the layout of onnxruntime's QMoE: the matrices of all experts in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import QuantizeError

from .scheme import QuantizedTensor, Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedExperts:
    """Quantised [N, K] matrices of all experts.

    Attributes:
        scheme: scheme of all matrices.
        codes: [E, N, K*bits/8] uint8, first code in the low bits.
        scales: [E, N, K/G] float32.
        zero_points: [E, N, ceil(K/G*bits/8)] uint8, or None when symmetric.
    """

    scheme: Scheme
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None


def stack_experts(experts: Sequence[QuantizedTensor]) -> QuantizedExperts:
    """Stack quantised matrices of equal shape and scheme along a first axis.

    Raises:
        QuantizeError: there are none, they differ, or K is not a multiple of the group: QMoE supports no padding.

    Source: onnxruntime ContribOperators.md, com.microsoft.QMoE, inputs fc1_experts_weights and fc1_scales.
    """
    if not experts:
        raise QuantizeError("no experts are given, expected at least one")
    first = experts[0]
    for expert in experts:
        if (expert.scheme, expert.codes.shape, expert.columns) != (first.scheme, first.codes.shape, first.columns):
            raise QuantizeError("experts differ in shape or scheme, expected equal ones")
    if first.columns % first.scheme.group:
        raise QuantizeError(f"experts have {first.columns} columns, expected a multiple of group {first.scheme.group}")
    zeros = [expert.zero_points for expert in experts if expert.zero_points is not None]
    return QuantizedExperts(
        scheme=first.scheme,
        codes=np.stack([expert.codes.reshape(len(expert.codes), -1) for expert in experts]),
        scales=np.stack([expert.scales for expert in experts]),
        zero_points=np.stack(zeros) if zeros else None,
    )
