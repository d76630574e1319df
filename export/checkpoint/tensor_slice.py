"""Position of a tensor in a file, and reading of its bytes by ``pread``, a few rows at a time.

Files are not mapped: mapped pages would count as this process's memory. Independent of file formats; a format whose
bytes are not plain numbers has a place class of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import CheckpointError
from palmtop.quantize.scheme import QuantizedTensor, Scheme

HASH_BLOCK_BYTES = 8 << 20


class Place(Protocol):
    """Interface for the position and the format of a tensor's bytes."""

    @property
    def file(self) -> Path:
        """File of the bytes."""

    @property
    def offset(self) -> int:
        """Offset of the first byte."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""

    @property
    def mark(self) -> tuple[int, int, int]:
        """The file's inode, size and modification time when its header was read."""

    @property
    def stored_as(self) -> str:
        """Name of the type; part of the tensor's hash."""

    @property
    def is_quantized(self) -> bool:
        """Whether its numbers are quantised to few bits."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one of the leading rows."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor."""

    def floats(self, data: bytes, rows: int) -> NDArray[np.float32]:
        """Return the bytes of ``rows`` rows as floats, [rows, ...]."""

    def coded(self, data: bytes, rows: int, scheme: Scheme) -> QuantizedTensor | None:
        """Return the bytes of ``rows`` rows as codes of a scheme, if that is exact; else None."""


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A ``Place`` of plain numbers.

    Attributes:
        file: shard of the tensor.
        offset: offset of the first byte.
        dtype: type of the stored numbers.
        shape: shape of the whole tensor.
        mark: the shard's inode, size and modification time when its header was read.
    """

    file: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    mark: tuple[int, int, int]

    @property
    def stored_as(self) -> str:
        """Name of the numbers' type."""
        return str(self.dtype)

    @property
    def is_quantized(self) -> bool:
        """Whether the numbers are quantised; False for floats."""
        return False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; for a single number those of the number."""
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def floats(self, data: bytes, rows: int) -> NDArray[np.float32]:
        """Return the bytes of rows as floats, [rows, ...]; a single number as []."""
        shape = (rows, *self.shape[1:]) if self.shape else ()
        return np.frombuffer(data, self.dtype).reshape(shape).astype(np.float32)

    def coded(self, data: bytes, rows: int, scheme: Scheme) -> QuantizedTensor | None:
        """Return None: floats are not quantised."""
        return None


def file_mark(path: Path) -> tuple[int, int, int]:
    """Return inode, size and modification time, which identify a version of a file."""
    with path.open("rb") as file:
        return mark_of(file)


def mark_of(file: IO[bytes]) -> tuple[int, int, int]:
    """Return inode, size and modification time of an open file."""
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def refuse_truncated(file: Path, places: Mapping[str, Place]) -> None:
    """Refuse a file that is shorter than its header states.

    Raises:
        CheckpointError: a tensor ends behind the file's end.
    """
    for name, place in places.items():
        size_bytes = place.mark[1]
        if place.offset + place.size_bytes > size_bytes:
            raise CheckpointError(
                f"{file}: is truncated: tensor '{name}' ends at byte {place.offset + place.size_bytes},"
                f" the file has {size_bytes}"
            )


def read_blocks(name: str, place: Place) -> Iterator[bytes]:
    """Yield the tensor's bytes in the file, a block at a time.

    Raises:
        CheckpointError: the file was replaced, ends too early, or could not be read.
    """
    try:
        with _open(place) as file:
            file.seek(place.offset)
            left = place.size_bytes
            while left:
                block = file.read(min(left, HASH_BLOCK_BYTES))
                if not block:
                    raise CheckpointError(f"{place.file}: tensor '{name}' ends too early")
                left -= len(block)
                yield block
    except OSError as error:
        raise CheckpointError(f"{place.file}: tensor '{name}' could not be read ({error.strerror})") from error


def read_rows(name: str, place: Place, start: int, stop: int) -> bytes:
    """Return the bytes of leading rows, or of a single number; errors as for ``read_blocks``."""
    if not place.shape:
        start, stop = 0, 1
    length, offset = (stop - start) * place.row_bytes, place.offset + start * place.row_bytes
    try:
        with _open(place) as file:
            file.seek(offset)  # Windows has no pread
            data = file.read(length)
            while len(data) < length:  # a read stops at 2 GiB
                more = file.read(length - len(data))
                if not more:
                    raise CheckpointError(f"{place.file}: tensor '{name}' ends too early")
                data += more
    except OSError as error:
        raise CheckpointError(f"{place.file}: tensor '{name}' could not be read ({error.strerror})") from error
    return data


@contextmanager
def _open(place: Place) -> Iterator[IO[bytes]]:
    """Open the file if its header was read from the same version; the offsets of another would give wrong bytes.

    Raises:
        CheckpointError: the file was replaced or written to.
    """
    with place.file.open("rb", buffering=0) as file:
        if mark_of(file) != place.mark:
            raise CheckpointError(
                f"{place.file}: was replaced or changed while it was read, expected it to stay as it is"
            )
        yield file
