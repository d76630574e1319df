"""Write a bundle folder beside its place and rename it in: there is a whole bundle or none."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import CheckpointError, InputError
from palmtop.runtime.manifest import MANIFEST_FILE

PAGE_ALIGNED_FROM = 1 << 20  # tensors of at least this size start on a 64 KiB boundary and can be mapped
PAGE = 64 << 10
LINE = 64  # smaller ones start on a cache line, or a tiny model would be mostly padding
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)  # only writing ends in these
_writing: set[Path] = set()  # partial folders of this process: a process id may come back, in a container always does


class WeightFile:
    """One external data file, written front to back.

    Use as a context manager. ``size_bytes`` is what has been written.
    """

    def __init__(self, folder: Path, location: str) -> None:
        self.path = folder / location
        self.location = location
        self.size_bytes = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb")

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _named(self.path):
            self._file.close()

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

    def inlined(self, name: str, array: NDArray[np.generic]) -> None:
        """A small weight stays in the graph; nothing to write."""

    def _append(self, data: bytes | memoryview) -> None:
        with _named(self.path):
            self._file.write(data)
        self.size_bytes += len(data)


@contextmanager
def written_beside(target: Path, *, overwrite: bool = False, keep: Path | None = None) -> Iterator[Path]:
    """A folder to write into, renamed to ``target`` when the block ends well and removed when it does not.

    Args:
        target: where the bundle shall be; a link is followed.
        overwrite: replace a bundle that is there, and nothing else.
        keep: the checkpoint that is read; the target must not overlap it.

    Raises:
        InputError: the target exists and may not be replaced, or it cannot be written.
        CheckpointError: a file in ``keep`` could not be read.
    """
    try:
        place = target.resolve()
        source = None if keep is None else keep.resolve()
        _refuse_overlap(target, place, source)
        _sweep(place)
        _refuse_replacing(target, place, overwrite)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise InputError(f"{target}: cannot be used ({_reason(error)}), expected a new folder") from error
    partial = _beside(place, "partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{target.parent}: cannot write there ({_reason(error)})") from error
    _writing.add(partial)
    try:
        yield partial
        _refuse_replacing(target, place, overwrite)  # it may have appeared meanwhile
        _swap(partial, place)
    except OSError as error:
        if error.errno in NO_ROOM or _is_about(error, partial) or _is_about(error, place):
            raise InputError(f"{target}: could not be written ({_reason(error)})") from error
        if source is not None and _is_about(error, source):
            raise CheckpointError(f"{error.filename}: could not be read ({_reason(error)})") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _writing.discard(partial)


def _refuse_overlap(target: Path, place: Path, source: Path | None) -> None:
    if Path.cwd().is_relative_to(place):
        raise InputError(f"{target}: is or holds the current folder, expected a new folder")
    if source is not None and (place.is_relative_to(source) or source.is_relative_to(place)):
        raise InputError(f"{target}: overlaps the checkpoint {source}, expected a folder outside it")


def _refuse_replacing(target: Path, place: Path, overwrite: bool) -> None:
    if not place.exists():
        return
    if not place.is_dir():
        raise InputError(f"{target}: is a file, expected a new folder")
    if not overwrite:
        raise InputError(f"{target}: already exists, expected a new folder (--force replaces a bundle)")
    is_checkpoint = (place / "config.json").exists() and any(place.glob("*.safetensors"))
    if is_checkpoint or not (place / MANIFEST_FILE).is_file():
        found = "is a checkpoint" if is_checkpoint else "is not a bundle"
        raise InputError(f"{target}: {found}; --force replaces only bundles")


def _swap(partial: Path, place: Path) -> None:
    """Rename a finished folder into its place; what was there goes only when that has worked."""
    if not place.exists():
        partial.rename(place)
        return
    old = _beside(place, "old")
    try:
        place.rename(old)
        partial.rename(place)
    except BaseException:  # SystemExit and KeyboardInterrupt as well
        if old.exists() and not place.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)  # what cannot go now is swept by a later export


def _beside(place: Path, kind: str) -> Path:
    return place.with_name(f".{place.name}.{kind}-{os.getpid()}")


def _sweep(place: Path) -> None:
    """Remove what exports to this place left when they were killed; an old bundle without successor comes back."""
    if os.name == "nt" or not place.parent.is_dir():  # os.kill(pid, 0) would send Ctrl-C on Windows
        return
    pattern = re.compile(rf"\.{re.escape(place.name)}\.(partial|old)-([0-9]{{1,10}})")
    for folder in sorted(place.parent.iterdir()):
        match = pattern.fullmatch(folder.name)
        if match is None or folder.is_symlink() or not folder.is_dir() or _is_alive(int(match[2]), place):
            continue
        if match[1] == "old" and not place.exists():
            folder.rename(place)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int, place: Path) -> bool:
    """Whether the process that wrote beside this place still does."""
    if pid == os.getpid():
        return _beside(place, "partial") in _writing
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # not ours to signal, so it is there
        return True
    return True


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name into errors of an open file, which have none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _is_about(error: OSError, folder: Path) -> bool:
    if not isinstance(error.filename, str):
        return False
    return Path(error.filename).absolute().is_relative_to(folder) or Path(error.filename).resolve().is_relative_to(
        folder
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
