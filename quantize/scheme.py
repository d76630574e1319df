"""Quantisation scheme of a matrix: bits, group size, symmetry. Values, checked on creation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import QuantizeError

BITS = (2, 4, 8)
GROUPS = (16, 32, 64, 128, 256)  # group sizes that onnxruntime's CPU kernel computes correctly (512 once gave zeros)
SCALE_BITS = (16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Block-wise integer quantisation along K, as in MatMulNBits and GatherBlockQuantized.

    Attributes:
        bits: bits per weight: 2, 4 or 8.
        group: number of weights that share one scale (onnxruntime's ``block_size``).
        symmetric: whether no zero points are stored; the zero point is then ``2 ** (bits - 1)``.
        scale_bits: bits per scale: 32, or 16 for scales that are stored as float16 and widened when a graph is loaded.
    """

    bits: int
    group: int
    symmetric: bool = False
    scale_bits: int = 32

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise QuantizeError(f"bits is {self.bits}, expected one of {', '.join(map(str, BITS))}")
        if self.group not in GROUPS:
            raise QuantizeError(f"group is {self.group}, expected one of {', '.join(map(str, GROUPS))}")
        if self.scale_bits not in SCALE_BITS:
            raise QuantizeError(f"scale bits is {self.scale_bits}, expected one of {', '.join(map(str, SCALE_BITS))}")

    @property
    def levels(self) -> int:
        """Largest code of these bits."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """Zero point of symmetric codes."""
        return 1 << (self.bits - 1)

    def groups_per_row(self, columns: int) -> int:
        """Return the number of groups in a row of K weights; the last one is padded."""
        return -(-columns // self.group)

    def tensor_bytes(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Return the bytes of codes, scales and zero points of an [N, K] matrix."""
        groups = self.groups_per_row(columns)
        zeros = 0 if self.symmetric else rows * -(-groups * self.bits // 8)
        return rows * groups * self.group * self.bits // 8, rows * groups * self.scale_bits // 8, zeros

    def stored(self, scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scales after storing: rounded to float16 for ``scale_bits`` 16."""
        if self.scale_bits == 32:
            return scales
        largest = np.finfo(np.float16).max
        return scales.clip(-largest, largest).astype(np.float16).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedTensor:
    """A quantised [N, K] matrix in onnxruntime's layout.

    Attributes:
        scheme: scheme of the codes.
        columns: K before padding.
        codes: [N, K/G, G*bits/8] uint8, first code in the low bits.
        scales: [N, K/G] float32; with ``scale_bits`` 16 each is exact in float16.
        zero_points: [N, ceil(K/G*bits/8)] uint8 packed like the codes, or None when symmetric.
    """

    scheme: Scheme
    columns: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, scales and zero points included."""
        return sum(self.scheme.tensor_bytes(len(self.codes), self.columns))
