"""Where a GGUF file's tensors lie, quantised or float, and what their bytes mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from palmtop.quantize.scheme import QuantizedTensor, Scheme

from .grids import GRIDS, coded


@dataclass(frozen=True, slots=True)
class GgufSlice:
    """A ``tensor_slice.Place`` in a GGUF file.

    Attributes:
        file: the whole checkpoint.
        offset: of the first byte in the file.
        kind: the type it is stored in.
        shape: outermost first, as numpy has it (GGUF writes it the other way round).
        mark: the file's inode, size and modification time when its header was read.
    """

    file: Path
    offset: int
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    mark: tuple[int, int, int]

    @property
    def stored_as(self) -> str:
        """The quantised or float type."""
        return str(self.kind.name)

    @property
    def is_quantized(self) -> bool:
        """Whether ``coded`` may give codes."""
        return self.kind in GRIDS

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, which is stored in whole blocks; of one element where the tensor is a vector."""
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape[1:])) // block * block_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.shape[0] * self.row_bytes

    def floats(self, data: bytes, rows: int) -> NDArray[np.float32]:
        """So many rows' bytes as [rows, ...], dequantised."""
        raw: NDArray[Any] = np.frombuffer(data, np.uint8).reshape(rows, self.row_bytes)
        if len(self.shape) == 1:  # a vector: all of it is one row
            raw = raw.reshape(1, -1)
        floats = np.asarray(gguf.quants.dequantize(raw, self.kind), np.float32)
        return floats.reshape(rows, *self.shape[1:])

    def coded(self, data: bytes, rows: int, scheme: Scheme) -> QuantizedTensor | None:
        """So many rows' bytes as codes of a scheme, if that loses nothing; else None."""
        if len(self.shape) != 2:
            return None
        return coded(np.frombuffer(data, np.uint8).reshape(rows, -1), self.kind, self.shape[1], scheme)
