"""A name for arrays that changes when their content does."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def content_key(kind: str, *arrays: NDArray[np.generic]) -> str:
    """A sha256 over types, shapes and bytes; ``kind`` separates what is done with them."""
    digest = hashlib.sha256(kind.encode())
    for array in arrays:
        digest.update(f"|{array.dtype.str}{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
