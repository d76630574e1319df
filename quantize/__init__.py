"""Quantisation of weights to blocks of few bits, in the layouts of onnxruntime's kernels.

Each method is a function with the signature ``Quantizer`` in a file of its own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .scheme import QuantizedTensor, Scheme
from .statistics import Statistics


class Quantizer(Protocol):
    """Signature of a quantisation method; rows are independent, so a matrix may come in parts."""

    def __call__(
        self, weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /
    ) -> QuantizedTensor:
        """Quantise the rows of a matrix.

        Args:
            weight: [N, K] float32, finite; all rows of a matrix or some of them.
            scheme: bits, group size, symmetry.
            statistics: second moments of the K inputs; ignored by methods that need none.

        Raises:
            QuantizeError: the matrix is not two-dimensional or not finite, or the method needs statistics.
        """
        ...
