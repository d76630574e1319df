"""External data files of a bundle: large weights, written front to back, some kept from an earlier attempt."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.quantize.workers import Workers

from .journal import Entry, Journal
from .progress import Meter

PAGE_ALIGNED_FROM = 1 << 20  # tensors of at least this size start on a 64 KiB boundary and can be mapped
PAGE = 64 << 10
LINE = 64  # smaller ones start on a cache line, otherwise a tiny model would be mostly padding
BLOCK_BYTES = 4 << 20

Block = tuple[NDArray[Any], ...]


class ExternalData:
    """One external data file, used as a context manager.

    Attributes:
        location: name of the file in graphs.
        size_bytes: bytes written so far.
        workers: threads that make the blocks.
    """

    def __init__(
        self,
        folder: Path,
        location: str,
        *,
        workers: Workers | None = None,
        journal: Journal | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.path = folder / location
        self.location = location
        self.size_bytes = 0
        self.workers = workers or Workers()
        self._journal = journal
        self._meter = meter or Meter()
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_begun = journal is not None and self.path.exists()
        self._file = self.path.open("r+b" if is_begun else "w+b", buffering=0)

    def __enter__(self) -> ExternalData:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _named(self.path):
            if kind is None:
                self._file.truncate(self.size_bytes)  # an earlier attempt may have come further
            self._file.close()

    @property
    def sha256(self) -> str:
        """Return the hash of the bytes written so far."""
        return self._sha256.hexdigest()

    def add(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        blocks: Iterable[NDArray[Any]],
    ) -> ir.ExternalTensor:
        """Append a tensor given in consecutive blocks.

        Raises:
            ValueError: the blocks do not add up to the shape (a bug of the caller).
        """
        return self.add_set(name, [(name, shape, dtype)], ((block,) for block in blocks))[0]

    def add_set(
        self,
        name: str,
        tensors: Sequence[tuple[str, tuple[int, ...], np.dtype[Any]]],
        blocks: Iterable[Block],
    ) -> list[ir.ExternalTensor]:
        """Append tensors that are made together, such as codes and scales: all of them are kept, or none.

        Args:
            name: name of the set.
            tensors: name, shape and type of each tensor.
            blocks: consecutive parts of all of them; not iterated if an earlier attempt has written them.

        Raises:
            ValueError: the blocks do not add up to the shapes (a bug of the caller).
        """
        places, offset = [], self.size_bytes
        for _, shape, dtype in tensors:
            length = int(np.prod(shape)) * dtype.itemsize
            offset += -offset % (PAGE if length >= PAGE_ALIGNED_FROM else LINE)
            places.append((offset, length))
            offset += length
        with _named(self.path):
            if not self._is_kept(name, places[0][0], offset):
                self._write_set(name, places, blocks, [dtype for _, _, dtype in tensors])
        return [
            ir.ExternalTensor(
                self.location,
                start,
                length,
                ir.DataType.from_numpy(dtype),
                shape=ir.Shape(shape),
                name=tensor,
                base_dir=self.path.parents[len(Path(self.location).parts) - 1],
            )
            for (tensor, shape, dtype), (start, length) in zip(tensors, places, strict=True)
        ]

    def inlined(self, name: str, array: NDArray[Any]) -> None:
        """Do nothing: a small weight stays in the graph."""

    def _is_kept(self, name: str, offset: int, end: int) -> bool:
        """Return whether an earlier attempt has written this set; its bytes are then counted as written."""
        entry = None if self._journal is None else self._journal.written(self.location, name, offset, end)
        if self._journal is None or entry is None:
            return False
        before, sha256 = self.size_bytes, self._sha256.copy()
        self._file.seek(before)
        if not (self._reread(offset) and self._reread(end) and self._crc32 == entry.crc32):
            self.size_bytes, self._sha256 = before, sha256
            self._journal.forget()
            return False
        self._journal.keep()
        self._meter.keep(name, entry.read_bytes)
        return True

    def _reread(self, end: int) -> bool:
        """Count the file's bytes up to here with a checksum of their own; return whether there are that many."""
        self._crc32 = 0
        while self.size_bytes < end:
            block = self._file.read(min(end - self.size_bytes, BLOCK_BYTES))
            if not block:
                return False
            self._count(block)
        return True

    def _write_set(
        self, name: str, places: list[tuple[int, int]], blocks: Iterable[Block], dtypes: list[np.dtype[Any]]
    ) -> None:
        self._file.seek(self.size_bytes)
        self._append(bytes(places[0][0] - self.size_bytes))
        self._crc32, before = 0, self._meter.done_bytes
        # small compared with the first one, which is written at once
        later: list[list[NDArray[Any]]] = [[] for _ in dtypes[1:]]
        for first, *others in blocks:
            self._append(_bytes(first, dtypes[0]))
            for held, block in zip(later, others, strict=True):
                held.append(block)
        for (start, length), dtype, held in zip(places, dtypes, [[], *later], strict=True):
            for block in held:
                if start > self.size_bytes:
                    self._append(bytes(start - self.size_bytes))
                self._append(_bytes(block, dtype))
            if length and self.size_bytes != start + length:
                raise ValueError(f"{name}: {self.size_bytes - start} bytes written, expected {length}")
        if self._journal is not None:
            read = self._meter.done_bytes - before
            self._journal.add(
                Entry(
                    file=self.location,
                    name=name,
                    offset=places[0][0],
                    end=self.size_bytes,
                    crc32=self._crc32,
                    read_bytes=read,
                )
            )
        self._meter.finish(name)

    def _append(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._count(data)

    def _count(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        self._crc32 = zlib.crc32(data, self._crc32)
        self.size_bytes += len(data)


def _bytes(block: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    return np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8).data


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the file's name to errors of an open file, which lack it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
