"""The tensors of a GGUF file: read with ``pread`` a few rows at a time and dequantised, float or quantised alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from palmtop.errors import CheckpointError
from palmtop.export.tensor_folder import HASH_BLOCK_BYTES, file_mark
from palmtop.export.weight import Weight
from palmtop.export.workers import Workers


@dataclass(frozen=True, slots=True)
class GgufPlace:
    """Where a tensor's bytes are.

    Attributes:
        offset: of the first byte in the file.
        kind: the type it is stored in.
        shape: outermost first, as numpy has it (GGUF writes it the other way round).
    """

    offset: int
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, which is stored in whole blocks; of one element where the tensor is a vector."""
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape[1:])) // block * block_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.shape[0] * self.row_bytes


class GgufTensors:
    """What ``tensor_folder.TensorFolder`` is for safetensors, for one GGUF file.

    Attributes:
        path: the file.
        on_read: told the name and bytes of every read, for progress.
    """

    def __init__(self, path: Path, places: Mapping[str, GgufPlace]) -> None:
        self.path = path
        self.on_read: Callable[[str, int], None] | None = None
        self._places = dict(places)
        self._mark = file_mark(path)
        size_bytes = path.stat().st_size
        for name, place in self._places.items():
            if place.offset + place.size_bytes > size_bytes:
                raise CheckpointError(
                    f"{path}: is truncated: tensor '{name}' ends at byte {place.offset + place.size_bytes},"
                    f" the file has {size_bytes}"
                )

    @property
    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._places)

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(place.size_bytes for place in self._places.values())

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape, or None when there is no such tensor."""
        place = self._places.get(name)
        return None if place is None else place.shape

    def weight(self, name: str) -> Weight:
        """A tensor, to be read later.

        Raises:
            CheckpointError: there is no such tensor; later, it cannot be read.
        """
        place = self._places.get(name)
        if place is None:
            raise CheckpointError(f"{self.path}: tensor '{name}' is missing")

        def rows(start: int, stop: int) -> NDArray[np.float32]:
            data = self._read(name, place.offset + start * place.row_bytes, (stop - start) * place.row_bytes)
            if self.on_read is not None:
                self.on_read(name, len(data))
            return _floats(data, place, stop - start)

        return Weight(name, place.shape, rows)

    def sha256(self, workers: Workers | None = None) -> str:
        """Hash of names, types, shapes and each tensor's own hash, wherever in the file it lies.

        Raises:
            CheckpointError: a tensor could not be read to its end.
        """

        def one(name: str) -> str:
            place, digest = self._places[name], hashlib.sha256()
            for start in range(0, place.size_bytes, HASH_BLOCK_BYTES):
                length = min(HASH_BLOCK_BYTES, place.size_bytes - start)
                digest.update(self._read(name, place.offset + start, length))
            return f"{name}:{place.kind.name}:{list(place.shape)}:{digest.hexdigest()}\n"

        whole = hashlib.sha256()
        for line in (workers or Workers()).map(one, self.names):
            whole.update(line.encode())
        return whole.hexdigest()

    @property
    def marks(self) -> dict[str, tuple[int, int, int]]:
        """Inode, size and modification time of the file."""
        return {self.path.name: self._mark}

    def _read(self, name: str, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        try:
            if file_mark(self.path) != self._mark:
                raise CheckpointError(
                    f"{self.path}: was replaced or changed while it was read, expected it to stay as it is"
                )
            with self.path.open("rb", buffering=0) as file:
                while length > 0:
                    part = os.pread(file.fileno(), length, offset)
                    if not part:
                        raise CheckpointError(f"{self.path}: tensor '{name}' ends too early")
                    parts.append(part)
                    offset, length = offset + len(part), length - len(part)
        except OSError as error:
            raise CheckpointError(f"{self.path}: tensor '{name}' could not be read ({error.strerror})") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _floats(data: bytes, place: GgufPlace, rows: int) -> NDArray[np.float32]:
    raw: NDArray[Any] = np.frombuffer(data, np.uint8).reshape(rows, place.row_bytes)
    if len(place.shape) == 1:  # a vector: all of it is one row
        raw = raw.reshape(1, -1)
    floats = np.asarray(gguf.quants.dequantize(raw, place.kind), np.float32)
    return floats.reshape(rows, *place.shape[1:])
