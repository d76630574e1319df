"""Resizing of Phi-4-multimodal's image processor, bilinear and bicubic, in numpy.

``resize_triangle`` is torchvision's default on uint8 images (bilinear, antialiased): torch's native kernel uses 15-bit
integer weights and rounds to uint8 between its horizontal and vertical pass, and so does this one. OpenCV has no equal:
its INTER_LINEAR does not antialias and its INTER_AREA is a box. ``resize_cubic`` is torch's bicubic (a = -0.75,
align_corners off, no antialias) on float images.

Source: pytorch v2.13, aten/src/ATen/native/cpu/UpSampleKernel.cpp (HelperInterpBase).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.processor.cancellation_points import Between, go_on

BAND_OUTPUTS = 64
"""Outputs of one small dense matrix: the filter is banded, a full matrix would be mostly zeros."""
BLOCK_ROWS = 128
"""Image rows converted to float32 at a time; bounds working memory."""
CUBIC_A = -0.75


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Band:
    """Part of a banded filter; ``matrix`` maps inputs ``first:last`` to outputs ``start:stop``."""

    first: int
    last: int
    start: int
    stop: int
    matrix: NDArray[np.float32]


def resize_triangle(image: NDArray[np.uint8], width: int, height: int, between: Between = go_on) -> NDArray[np.uint8]:
    """Resize uint8 pixels bilinearly, with antialiasing when shrinking, as torchvision does.

    Args:
        image: [H, W, C] uint8.
        width: columns of the result.
        height: rows of the result.
        between: called between two steps of the work; may raise to stop it.

    Returns:
        The resized image, [height, width, C]; at most 1 grey level from torch's (equal where sums fit into 24 bits: up
        to 4x smaller).

    >>> resize_triangle(np.array([[[0], [200]]], np.uint8), 1, 1).tolist()
    [[[100]]]
    """
    old_height, old_width, channels = image.shape
    if width == old_width:
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    else:
        bands, scale = _triangle_bands(old_width, width)
        planes = np.empty((channels, old_height, width), np.uint8)
        for top in range(0, old_height, BLOCK_ROWS):
            between()
            rows = image[top : top + BLOCK_ROWS].transpose(2, 0, 1).astype(np.float32)  # [C, rows, W]
            for band in bands:
                sums = rows[:, :, band.first : band.last] @ band.matrix
                planes[:, top : top + BLOCK_ROWS, band.start : band.stop] = _round(sums, scale)
    if height == old_height:
        return np.ascontiguousarray(planes.transpose(1, 2, 0))
    bands, scale = _triangle_bands(old_height, height)
    result = np.empty((height, width, channels), np.uint8)
    for band in bands:
        for channel in range(channels):
            between()
            sums = band.matrix.T @ planes[channel, band.first : band.last].astype(np.float32)
            result[band.start : band.stop, :, channel] = _round(sums, scale)
    return result


def resize_cubic(image: NDArray[np.float32], width: int, height: int, between: Between = go_on) -> NDArray[np.float32]:
    """Resize float pixels bicubically without antialiasing, as torch does.

    Args:
        image: [C, H, W] float32.
        width: columns of the result.
        height: rows of the result.
        between: called between two steps of the work; may raise to stop it.

    Returns:
        The resized image, [C, height, width]; not clamped, so edges may overshoot the input's range.
    """
    rows, row_weights = _cubic_taps(image.shape[1], height)
    columns, column_weights = _cubic_taps(image.shape[2], width)
    result = np.zeros((image.shape[0], height, width), np.float32)
    for top in range(0, height, BLOCK_ROWS):
        between()
        block = slice(top, top + BLOCK_ROWS)
        narrow = np.zeros((image.shape[0], len(rows[block]), image.shape[2]), np.float32)
        for tap in range(4):
            narrow += image[:, rows[block, tap]] * row_weights[block, tap, None]
        for tap in range(4):
            result[:, block] += narrow[:, :, columns[:, tap]] * column_weights[:, tap]
    return result


def _round(sums: NDArray[Any], scale: float) -> NDArray[np.uint8]:
    """Convert fixed point to uint8; weights are not negative, so truncation is floor and no value exceeds 255."""
    return (sums * np.float32(scale) + np.float32(0.5)).astype(np.uint8)


def _triangle_bands(size_in: int, size_out: int) -> tuple[list[_Band], float]:
    """Banded integer weights, and the factor from a sum to a grey level."""
    ratio = size_in / size_out
    support = max(ratio, 1.0)
    centre = ratio * (np.arange(size_out) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), size_in)
    taps = first[:, None] + np.arange(int(np.ceil(support)) * 2 + 1)
    weights = np.maximum(1.0 - np.abs((taps - centre[:, None] + 0.5) / support), 0.0)
    weights *= taps < last[:, None]
    weights /= weights.sum(axis=1, keepdims=True)
    precision = _precision(float(weights.max()))
    whole = np.floor(weights * (1 << precision) + 0.5)
    bands = []
    for start in range(0, size_out, BAND_OUTPUTS):
        stop = min(start + BAND_OUTPUTS, size_out)
        low, high = int(first[start]), int(last[stop - 1])
        matrix = np.zeros((high - low, stop - start), np.float32)
        for output in range(start, stop):
            count = int(last[output] - first[output])
            offset = int(first[output]) - low
            matrix[offset : offset + count, output - start] = whole[output, :count]
        bands.append(_Band(first=low, last=high, start=start, stop=stop, matrix=matrix))
    return bands, 1.0 / (1 << precision)


def _precision(largest: float) -> int:
    """Fraction bits such that the largest weight still fits into int16."""
    for bits in range(22):
        if int(0.5 + largest * (1 << (bits + 1))) >= 1 << 15:
            return bits
    return 22


def _cubic_taps(size_in: int, size_out: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Four input positions (clamped to the border) and their weights for every output: both [size_out, 4]."""
    source = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    floor = np.floor(source)
    near = (source - floor)[:, None]
    distance = np.concatenate([near + 1, near, 1 - near, 2 - near], axis=1)
    inner = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance * distance + 1
    outer = ((CUBIC_A * distance - 5 * CUBIC_A) * distance + 8 * CUBIC_A) * distance - 4 * CUBIC_A
    taps = floor.astype(np.int64)[:, None] + np.arange(-1, 3)
    weights = np.where(distance <= 1, inner, outer)
    return np.clip(taps, 0, size_in - 1), weights.astype(np.float32)
