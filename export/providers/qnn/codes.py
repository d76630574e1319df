"""Integer weights and constants for an NPU: symmetric, with one scale for each output channel.

HTP supports groups along K only for int4, and there only with its own scales (docs/npu.md), so a channel is one group
here; the clipped search of ``quantize`` keeps four bits usable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHRINKS = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58)
"""Shares of a channel's range that are tried: with hundreds of weights per scale, clipping gains more than in a group
of 32.
"""
BLOCK_WEIGHTS = 1 << 18  # channels at a time: they stay in the cache


@dataclass(frozen=True, slots=True)
class Codes:
    """Integer codes with their scales.

    Attributes:
        codes: int8 (for 4 bits -8..7), uint16 or int32.
        scales: [N] scales, or a scalar.
        zero: zero point of uint16; 0 otherwise.
    """

    codes: NDArray[np.generic]
    scales: NDArray[np.float32]
    zero: int = 0

    def floats(self, axis: int | None = None) -> NDArray[np.float32]:
        """Return the values of the codes."""
        scales = self.scales
        if axis is not None:
            scales = scales.reshape([-1 if place == axis else 1 for place in range(self.codes.ndim)])
        return (self.codes.astype(np.float32) - np.float32(self.zero)) * scales


def channel_codes(weight: NDArray[np.float32], bits: int, axis: int) -> Codes:
    """Quantise a weight with one scale for each entry of an axis, choosing the best of several narrower ranges.

    Args:
        weight: weight of any shape.
        bits: 4 or 8.
        axis: axis of the output channels.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)  # [N, K]
    codes = np.empty(rows.shape, np.int8)
    scales = np.empty(len(rows), np.float32)
    step = max(1, BLOCK_WEIGHTS // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        codes[part], scales[part] = _coded(np.ascontiguousarray(rows[part]), bits)
    shape = [weight.shape[axis], *np.delete(weight.shape, axis)]
    return Codes(np.ascontiguousarray(np.moveaxis(codes.reshape(shape), 0, axis)), scales)


def _coded(rows: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes [N, K] and scales [N] of some channels."""
    top = (1 << (bits - 1)) - 1
    peaks = np.maximum(np.abs(rows).max(axis=1), np.float32(1e-10))
    best = np.full(len(rows), np.inf, np.float32)
    codes = np.zeros(rows.shape, np.int8)
    scales = np.zeros(len(rows), np.float32)
    for shrink in SHRINKS if bits == 4 else SHRINKS[:1]:
        tried = (peaks * np.float32(shrink / top)).astype(np.float32)
        near = rows / tried[:, None]
        np.rint(near, out=near)
        np.clip(near, -top - 1, top, out=near)
        errors = np.square(near * tried[:, None] - rows).sum(axis=1)
        better = errors < best
        best[better], scales[better], codes[better] = errors[better], tried[better], near[better].astype(np.int8)
    return codes, scales


def bias_codes(bias: NDArray[np.float32], scales: NDArray[np.float32]) -> Codes:
    """Quantise the bias of a convolution in units of its sums: input scale times weight scales."""
    limit = float(np.iinfo(np.int32).max)
    codes = np.rint(bias.astype(np.float64) / scales.astype(np.float64)).clip(-limit, limit)
    return Codes(codes.astype(np.int32), scales)


def grid_of(low: float, high: float) -> tuple[np.float32, int]:
    """Return scale and zero point of 16 bits for a range, extended to include zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / 65535, 1e-9))
    return scale, int(np.clip(round(-low / float(scale)), 0, 65535))


def value_codes(values: NDArray[np.float32]) -> Codes:
    """Quantise a constant in 16 bits."""
    scale, zero = grid_of(float(values.min()), float(values.max()))
    codes = np.rint(values / scale) + zero
    return Codes(codes.clip(0, 65535).astype(np.uint16), np.array(scale, np.float32), zero)


def packed_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack two codes per byte, the first in the low half, as ONNX stores INT4; an odd number is padded with a zero."""
    flat = codes.astype(np.int8).ravel().view(np.uint8) & 15
    flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    return np.asarray(flat[0::2] | (flat[1::2] << 4), np.uint8)
