"""Quantise weights to blocks of few bits, in the layouts that onnxruntime's kernels read.

A method is a function of one signature, ``Quantizer``, in a file of its own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .scheme import QuantizedTensor, Scheme
from .statistics import Statistics


class Quantizer(Protocol):
    """What every method is: rows of weights to codes, each row by itself, so that rows may come in parts."""

    def __call__(
        self, weight: NDArray[np.float32], scheme: Scheme, statistics: Statistics | None = None, /
    ) -> QuantizedTensor:
        """Quantise a matrix.

        Args:
            weight: [N, K] float32, finite; any rows of the whole.
            scheme: bits, group, symmetric.
            statistics: of the K inputs; methods that need none ignore them.

        Raises:
            QuantizeError: the matrix is not two-dimensional or not finite, or the method needs statistics.
        """
        ...
