"""Position and format of a GGUF file's tensors, quantised or float."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from palmtop.quantize.scheme import QuantizedTensor, Scheme

from .grids import GRIDS, coded


@dataclass(frozen=True, slots=True)
class GgufSlice:
    """Position of one tensor in a GGUF file (``tensor_slice.Place``).

    Attributes:
        file: path of the file.
        offset: offset of the first byte in the file.
        kind: stored type.
        shape: shape, outermost axis first, as in numpy (GGUF has the reverse order).
        mark: the file's inode, size and modification time when its header was read.
    """

    file: Path
    offset: int
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    mark: tuple[int, int, int]

    @property
    def stored_as(self) -> str:
        """Name of the quantised or float type."""
        return str(self.kind.name)

    @property
    def is_quantized(self) -> bool:
        """Whether ``coded`` may return codes."""
        return self.kind in GRIDS

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, which is stored in whole blocks; of one element if the tensor is a vector."""
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape[1:])) // block * block_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return self.shape[0] * self.row_bytes

    def apart(self) -> list[GgufSlice]:
        """Return the places of the matrices of a stack, [E, N, K], one after the other."""
        return [
            replace(self, offset=self.offset + number * self.row_bytes, shape=self.shape[1:])
            for number in range(self.shape[0])
        ]

    def floats(self, data: bytes, rows: int) -> NDArray[np.float32]:
        """Return the bytes of rows as floats, [rows, ...], dequantised."""
        raw: NDArray[Any] = np.frombuffer(data, np.uint8).reshape(rows, self.row_bytes)
        if len(self.shape) == 1:  # a vector: all of it is one row
            raw = raw.reshape(1, -1)
        floats = np.asarray(gguf.quants.dequantize(raw, self.kind), np.float32)
        return floats.reshape(rows, *self.shape[1:])

    def coded(self, data: bytes, rows: int, scheme: Scheme) -> QuantizedTensor | None:
        """Return the bytes of rows as codes of a scheme, if that is exact; else None."""
        if len(self.shape) != 2:
            return None
        return coded(np.frombuffer(data, np.uint8).reshape(rows, -1), self.kind, self.shape[1], scheme)
