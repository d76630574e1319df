"""Write a bundle folder beside its place and rename it in: there is a whole bundle or none."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import InputError

PAGE_ALIGNED_FROM = 1 << 20  # tensors of at least this size start on a 64 KiB boundary and can be mapped
PAGE = 64 << 10
LINE = 64  # smaller ones start on a cache line, or a tiny model would be mostly padding


class WeightFile:
    """One external data file, written front to back.

    Use as a context manager. ``sha256`` and ``size_bytes`` describe what has been written.
    """

    def __init__(self, folder: Path, location: str) -> None:
        self.path = folder / location
        self.location = location
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb")

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """Of everything written so far."""
        return self._hash.hexdigest()

    def add(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        blocks: Iterable[NDArray[np.generic]],
    ) -> ir.ExternalTensor:
        """Append a tensor given in consecutive blocks.

        Raises:
            ValueError: the blocks do not add up to the shape (a bug of the caller).
        """
        expected = int(np.prod(shape)) * dtype.itemsize
        step = PAGE if expected >= PAGE_ALIGNED_FROM else LINE
        self._append(bytes(-self.size_bytes % step))
        offset = self.size_bytes
        for block in blocks:
            self._append(np.ascontiguousarray(block, dtype).data.cast("B") if block.size else b"")
        if self.size_bytes - offset != expected:
            raise ValueError(f"{name}: {self.size_bytes - offset} bytes written, expected {expected}")
        return ir.ExternalTensor(
            self.location,
            offset,
            expected,
            ir.DataType.from_numpy(dtype),
            shape=ir.Shape(shape),
            name=name,
            base_dir=self.path.parents[len(Path(self.location).parts) - 1],
        )

    def _append(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)


@contextmanager
def written_beside(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, renamed to ``target`` when the block ends well and removed when it does not.

    Raises:
        InputError: the target exists, or its parent cannot be written.
    """
    if target.exists() and not overwrite:
        raise InputError(f"{target}: already exists, expected a new folder (--force replaces it)")
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{target.parent}: cannot write there ({error.strerror})") from error
    try:
        yield partial
        if target.exists():
            old = target.with_name(f".{target.name}.old-{os.getpid()}")
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
    except OSError as error:
        raise InputError(f"{target}: could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
