"""Positions of a tile's patches on the grid that the vision encoder was trained with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VECTOR_LANES = 8  # of torch's arange, on every CPU


def position_table(patches: int) -> NDArray[np.int64]:
    """Return the positions on the trained grid of the i-th of n valid patches of a side.

    The reference buckets i/n in float32, with boundaries as ``torch.arange`` computes them. The rounding that torch's
    vector lanes add is not reproduced: it differs between CPUs and, from 19 patches on, moves a bucket for some sizes
    (27 and 32 not among them).

    Args:
        patches: side of the trained grid.

    Returns:
        The positions, [patches + 1, patches], by n and i.

    >>> position_table(4).tolist()
    [[0, 0, 0, 0], [0, 3, 3, 3], [0, 2, 3, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    """
    boundaries = np.arange(1 / patches, 1.0, 1 / patches).astype(np.float32)
    steps = np.float32(1) / np.arange(1, patches + 1, dtype=np.float32)
    fractions = np.minimum(np.arange(patches, dtype=np.float32) * steps[:, None], np.float32(1 - 1e-6))
    buckets = np.searchsorted(boundaries, fractions.ravel(), side="right").reshape(fractions.shape)
    return np.concatenate([np.zeros((1, patches), np.int64), buckets.astype(np.int64)])


def nearest_positions(count: int, side: int) -> NDArray[np.int64]:
    """Return the position on the trained grid of each of a side's patches, for pictures of any shape.

    The i-th of n patches is at i/n of the side. The fractions are those of ``torch.arange`` in float32, which
    multiplies in blocks of eight: for some n, such as 25, 49 and 50, they fall just below a boundary and give the
    position below floor(side * i / n).

    Args:
        count: n, patches of the picture's side.
        side: positions along a side of the trained grid.

    Returns:
        The positions, [count].

    >>> nearest_positions(25, 70)[[4, 5, 6]].tolist()
    [11, 13, 16]
    """
    step = float(np.float32(1) / np.float32(count))
    index = np.arange(count)
    lane = index % VECTOR_LANES
    starts = (step * (index - lane)).astype(np.float32).astype(np.float64)
    in_block = (starts + step * lane).astype(np.float32)
    whole = index < count // VECTOR_LANES * VECTOR_LANES
    fractions = np.where(whole, in_block, (step * index).astype(np.float32))
    boundaries = (1 / side + np.arange(side - 1) * (1 / side)).astype(np.float32)
    return np.searchsorted(boundaries, fractions, side="right").astype(np.int64)


def position_ids(patch_mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the trained position of every patch of some tiles, as the graph of ``vision.onnx`` computes it.

    Args:
        patch_mask: [N, P, P], a rectangle at the top left of each tile.

    Returns:
        The positions, [N, P*P]; 0 for masked patches.
    """
    count, patches, _ = patch_mask.shape
    table = position_table(patches)
    rows, columns = table[patch_mask[:, :, 0].sum(axis=1)], table[patch_mask[:, 0, :].sum(axis=1)]  # [N, P]
    ids = (rows[:, :, None] * patches + columns[:, None, :]) * patch_mask
    return np.asarray(ids.reshape(count, -1), np.int32)
