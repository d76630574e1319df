"""Inputs of encoder graphs of fixed shapes: one tile or one window, its masks and positions. Runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.bundle.processor_config import AudioSpec
from palmtop.runtime.processor.images.patch_positions import position_ids

HIDDEN = -100.0
"""Mask value of hidden keys. Scores and mask share one 16-bit range, so a larger number would cost the scores
precision; after softmax it is 4e-44 of the largest, which is zero in 16 bits.
"""


def static_tile_feeds(pixels: NDArray[np.float32], patch_mask: NDArray[np.bool_], rows: int) -> dict[str, NDArray[Any]]:
    """Return the inputs for one tile.

    Args:
        pixels: [1, 3, C, C] pixel values of the tile.
        patch_mask: [1, P, P] mask of valid patches.
        rows: R of the graph, at least P*P; further rows are masked.
    """
    patches = patch_mask.shape[1]
    more = rows - patches * patches
    bias = np.where(patch_mask.reshape(1, 1, 1, -1), np.float32(0), np.float32(HIDDEN))
    return {
        "patches": np.pad(_patches(pixels, patches), ((0, 0), (0, more), (0, 0))),
        "position_ids": np.pad(position_ids(patch_mask), ((0, 0), (0, more))),
        "key_bias": np.pad(bias, ((0, 0), (0, 0), (0, 0), (0, more)), constant_values=HIDDEN),
    }


def steps_of_window(feeds: Mapping[str, NDArray[Any]], spec: AudioSpec) -> int:
    """Return the number of encoder steps that a window needs: those it is padded to, or its own without its context."""
    return int(feeds["window"][0]) or _own_steps(feeds, spec)


def _own_steps(feeds: Mapping[str, NDArray[Any]], spec: AudioSpec) -> int:
    frames: int = feeds["log_mel"].shape[1]
    return -(-frames // spec.compression_rate) - int(feeds["left_context"][0])


def static_audio_feeds(
    feeds: Mapping[str, NDArray[Any]], spec: AudioSpec, steps: int
) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the inputs for one window of a sound, and the number of feature rows to keep.

    Args:
        feeds: the window's inputs of the graph with dynamic shapes (``LogMel.batches``).
        spec: sizes of the audio input.
        steps: S of the graph, at least ``steps_of_window``.

    Returns:
        the inputs by name, and the number of rows to keep.
    """
    frames = feeds["log_mel"][0]
    rate = spec.compression_rate
    front = 0 if feeds["left_context"][0] else rate  # frames of context that this window lacks
    length = (steps + 1) * rate
    mel = np.zeros((1, length, frames.shape[1]), np.float32)
    mel[0, front : front + len(frames)] = frames
    mask = np.zeros((1, 1, length, 1), np.float32)
    mask[0, 0, front : front + len(frames)] = 1
    count = _own_steps(feeds, spec)
    bias = np.zeros((1, 1, 1, steps), np.float32)
    if not feeds["window"][0]:
        bias[..., count:] = HIDDEN  # a padded window attends to its zeros, as the reference does
    return {"log_mel": mel, "frame_mask": mask, "key_bias": bias}, -(-count // spec.downsample_rate)


def _patches(pixels: NDArray[np.float32], patches: int) -> NDArray[np.float32]:
    """Return flattened patches: [1, 3, C, C] -> [1, P*P, 3*c*c]; incomplete patches are left out."""
    size = pixels.shape[-1] // patches
    whole = pixels[..., : patches * size, : patches * size].reshape(1, -1, patches, size, patches, size)
    return whole.transpose(0, 2, 4, 1, 3, 5).reshape(1, patches * patches, -1)
