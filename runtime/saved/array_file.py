"""A file of one JSON header and named arrays, written whole or not at all, and read with every byte checked.

Layout, all numbers little-endian: 8 bytes ``MAGIC``; uint32 version; uint32 length of the header; blake2b-256 of the
header; the header, UTF-8 JSON with ``arrays`` (name, dtype, shape of each, in order) and ``values``; the arrays' bytes
one after the other, row-major; blake2b-256 of the arrays' bytes. Independent of conversations.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError

MAGIC = b"PALMCONV"
VERSION = 1
DIGEST_BYTES = 32
MAX_HEADER_BYTES = 64 << 20
MAX_ARRAYS = 1 << 17
MAX_AXES = 8
BLOCK_BYTES = 4 << 20
DTYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "bool"),
)
EXPECTED = "expected a conversation that palmtop saved"
BESIDE = ".palmtop-saving-"
"""Beginning of the name of a file that is being written, in the folder of its destination."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Name, type and shape of an array in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the array."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @classmethod
    def of(cls, name: str, array: NDArray[np.generic]) -> ArraySpec:
        """Return the spec of an array."""
        return cls(name, array.dtype.name, array.shape)


def write_array_file(
    path: Path, values: Mapping[str, Any], specs: Iterable[ArraySpec], arrays: Iterable[NDArray[np.generic]]
) -> int:
    """Write a file beside its destination, flush it to the disk, and rename it; return its bytes.

    A kill at any moment leaves the old file or the new one, and at most a file named ``BESIDE``... next to it.

    Args:
        path: destination; an existing file is replaced.
        values: content of the header, of JSON types.
        specs: names, types and shapes of the arrays.
        arrays: the arrays, in the same order; read one at a time.

    Raises:
        InputError: the file cannot be written.
    """
    specs = list(specs)
    table = [[spec.name, spec.dtype, list(spec.shape)] for spec in specs]
    header = json.dumps({"arrays": table, "values": values}, separators=(",", ":")).encode()
    if len(header) > MAX_HEADER_BYTES:
        raise InputError(f"{path}: its texts take {len(header)} bytes, expected at most {MAX_HEADER_BYTES}")
    beside: Path | None = None
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected the name of a file")
        descriptor, name = tempfile.mkstemp(prefix=BESIDE, dir=path.parent)  # readable by its owner alone
        beside = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(MAGIC + VERSION.to_bytes(4, "little") + len(header).to_bytes(4, "little"))
            file.write(hashlib.blake2b(header, digest_size=DIGEST_BYTES).digest())
            file.write(header)
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            for spec, array in zip(specs, arrays, strict=True):
                assert ArraySpec.of(spec.name, array) == spec, f"{spec} is {array.dtype} {array.shape}"
                for block in _blocks(array):
                    digest.update(block)
                    file.write(block)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        beside.replace(path)
        _flush_folder(path.parent)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise InputError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
    finally:
        if beside is not None:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
    return size


class ArrayFile:
    """An opened file, whose arrays are read once and in order.

    Attributes:
        path: its path.
        values: content of the header; its shape is not checked here.
        specs: names, types and shapes of the arrays; together as long as the file.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.values, self.specs = _read_header(path, file)
        self._file = file
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._next = 0

    def read(self) -> NDArray[np.generic]:
        """Return the next array.

        Raises:
            InputError: the file ends before it.
        """
        spec = self.specs[self._next]
        self._next += 1
        array = np.empty(spec.shape, spec.dtype)
        view = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done : done + BLOCK_BYTES])  # type: ignore[attr-defined]
            if not count:
                raise InputError(f"{self.path}: ends in its array '{spec.name:.40}', {EXPECTED}")
            self._digest.update(view[done : done + count])
            done += count
        return array

    def finish(self) -> None:
        """Check what was read; call it behind the last array.

        Raises:
            InputError: bytes differ from those that were written.
        """
        assert self._next == len(self.specs), "arrays were left out"
        if self._file.read(DIGEST_BYTES) != self._digest.digest():
            raise InputError(f"{self.path}: is damaged, its bytes differ from those that were saved, {EXPECTED}")


@contextmanager
def open_array_file(path: Path) -> Iterator[ArrayFile]:
    """Yield a file whose header was checked; nothing of an array is read yet.

    Raises:
        InputError: the file cannot be read, is of another kind or version, is damaged, or is not as long as it says.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a file, {EXPECTED}")
        with path.open("rb") as file:
            yield ArrayFile(path, file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}), {EXPECTED}") from error


def _read_header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], tuple[ArraySpec, ...]]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(MAGIC) + 8 + DIGEST_BYTES)
    if start[: len(MAGIC)] != MAGIC:
        raise InputError(f"{path}: is not a saved conversation, {EXPECTED}")
    rest = start[len(MAGIC) :]
    if (version := int.from_bytes(rest[:4], "little")) != VERSION:
        raise InputError(f"{path}: was saved in format {version}, this palmtop reads {VERSION}; save it again")
    length, digest = int.from_bytes(rest[4:8], "little"), rest[8:]
    if length > min(size, MAX_HEADER_BYTES):
        raise InputError(f"{path}: has {size} bytes, its header alone would have {length}, {EXPECTED}")
    header = file.read(length)
    if len(digest) != DIGEST_BYTES or hashlib.blake2b(header, digest_size=DIGEST_BYTES).digest() != digest:
        raise InputError(f"{path}: its header is damaged, {EXPECTED}")
    try:
        data = json.loads(header)
        values, specs = data["values"], tuple(_read_spec(item) for item in data["arrays"])
        if not isinstance(values, dict) or len(specs) > MAX_ARRAYS:
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its header has another shape, {EXPECTED}") from error
    expected = len(start) + length + sum(spec.size_bytes for spec in specs) + DIGEST_BYTES
    if size != expected:
        raise InputError(f"{path}: has {size} bytes, expected {expected}: it was cut, or something was added")
    return values, specs


def _read_spec(item: Any) -> ArraySpec:
    """Read one row of the table.

    Raises:
        ValueError: it is not a name, a type and a shape.
    """
    name, dtype, shape = item
    sizes = (
        isinstance(shape, list) and len(shape) <= MAX_AXES and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
    )
    if not isinstance(name, str) or dtype not in DTYPES or not sizes:
        raise ValueError("no array")
    return ArraySpec(name, dtype, tuple(shape))


def _blocks(array: NDArray[np.generic]) -> Iterator[memoryview]:
    whole = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(whole), BLOCK_BYTES):
        yield whole[start : start + BLOCK_BYTES].data


def _flush_folder(folder: Path) -> None:
    """Flush a rename to the disk, where folders can be opened for it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
