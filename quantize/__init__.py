"""Quantise weights to blocks of few bits, in the layouts that onnxruntime's kernels read.

A method is a function of one signature, ``Quantizer``, in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .scheme import QuantizedTensor, Scheme

Quantizer = Callable[[NDArray[np.float32], Scheme], QuantizedTensor]
