"""How a matrix is quantised: bits, group size, symmetric or not. Pure values, checked on creation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import QuantizeError

BITS = (2, 4, 8)
GROUPS = (16, 32, 64, 128, 256)  # what onnxruntime's CPU kernel computes correctly (512 once gave zeros)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Block-wise integer quantisation along K, as MatMulNBits and GatherBlockQuantized read it.

    Attributes:
        bits: 2, 4 or 8 bits a weight.
        group: weights that share one scale (onnxruntime's ``block_size``).
        symmetric: no zero points stored; the zero is ``2 ** (bits - 1)``.
    """

    bits: int
    group: int
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise QuantizeError(f"bits is {self.bits}, expected one of {', '.join(map(str, BITS))}")
        if self.group not in GROUPS:
            raise QuantizeError(f"group is {self.group}, expected one of {', '.join(map(str, GROUPS))}")

    @property
    def levels(self) -> int:
        """Largest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point that symmetric codes imply."""
        return 1 << (self.bits - 1)

    def groups_per_row(self, columns: int) -> int:
        """Groups along a row of K weights; the last one is padded."""
        return -(-columns // self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedTensor:
    """A quantised [N, K] matrix in onnxruntime's layout.

    Attributes:
        scheme: how it was made.
        columns: K before padding.
        codes: [N, K/G, G*bits/8] uint8, first code in the low bits.
        scales: [N, K/G] float32.
        zero_points: [N, ceil(K/G*bits/8)] uint8 packed like the codes, or None when symmetric.
    """

    scheme: Scheme
    columns: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, scales and zero points counted."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.zero_points is None else self.zero_points.nbytes)
