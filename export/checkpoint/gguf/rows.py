"""Order of the rows of query and key projections in GGUF files, and conversion to transformers' order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.lazy_tensor import LazyTensor


def in_halves(weight: LazyTensor, heads: int, path: Path) -> LazyTensor:
    """Return the rows of each head in transformers' order: the two rotated halves one after the other.

    GGUF files of some architectures have row i of the second half behind row i of the first.

    Raises:
        CheckpointError: the number of rows does not fit the heads.
    """
    rows = weight.shape[0]
    if rows % (2 * heads):
        raise CheckpointError(
            f"{path}: tensor '{weight.name}' has {rows} rows, expected a multiple of twice its {heads} heads"
        )
    order = np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
    return weight.permuted_rows(order)
