"""Header of a GGUF file: metadata and the tensor table, read from front to back without mapping.

Source: the GGUF specification, versions 2 and 3, little-endian. A vocabulary of 200,000 tokens takes about 30 MB here;
    the package ``gguf`` keeps a view of every string, which takes 0.7 GB. That package is still used for the types.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.tensor_slice import mark_of, refuse_truncated
from palmtop.export.checkpoint.unusable.stand_ins import refuse_stand_in
from palmtop.runtime.bundle.stand_ins import START_BYTES

from .place import GgufSlice

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
NUMBERS: dict[int, np.dtype[Any]] = {
    number: np.dtype(kind)
    for number, kind in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip
MAX_DEPTH = 4  # of lists inside lists
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

Header = tuple[dict[str, Any], dict[str, GgufSlice]]


def read_header(path: Path) -> Header:
    """Read metadata by key, and the position of each tensor.

    Raises:
        CheckpointError: the file is not GGUF, is truncated, or could not be read.
    """
    try:
        with path.open("rb") as file:
            refuse_stand_in(path, file.read(START_BYTES))
            file.seek(0)
            fields, places = _Reader(path, file).header()
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read ({error.strerror or error})") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path}: is truncated or not GGUF ({' '.join(str(error).split())})") from error
    refuse_truncated(path, places)
    return fields, places


class _Reader:
    """Sequential reader of values; raises ValueError for invalid ones."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._mark = mark_of(file)
        self._left = self._mark[1]

    def header(self) -> Header:
        """Return the header."""
        if self._bytes(4) != MAGIC:
            raise ValueError("it does not begin with 'GGUF'")
        version = self._integer("<I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, expected {' or '.join(map(str, VERSIONS))}, little-endian")
        tensors, keys = self._count(8 + 4 + 8 + 4 + 8), self._count(8 + 4 + 1)
        fields: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string()
            if key in fields:
                raise ValueError(f"metadata key '{key}' is there twice")
            fields[key] = self._value(self._integer("<I"), 0)
        table = [self._tensor() for _ in range(tensors)]
        alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment!r:.40}, expected a power of two")
        start = -(-(self._mark[1] - self._left) // alignment) * alignment
        places: dict[str, GgufSlice] = {}
        for name, kind, shape, offset in table:
            if name in places:
                raise ValueError(f"tensor '{name}' is there twice")
            places[name] = GgufSlice(self._path, start + offset, kind, shape, self._mark)
        return fields, places

    def _tensor(self) -> tuple[str, gguf.GGMLQuantizationType, tuple[int, ...], int]:
        name, dimensions = self._string(), self._integer("<I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"tensor '{name:.80}' has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}")
        shape = tuple(self._integer("<Q") for _ in range(dimensions))[::-1]  # the file has the innermost axis first
        kind = gguf.GGMLQuantizationType(self._integer("<I"))
        block = gguf.GGML_QUANT_SIZES[kind][0]
        if 0 in shape or shape[-1] % block:
            raise ValueError(f"tensor '{name:.80}' is {list(shape)} in {kind.name}, expected rows of whole {block}s")
        return name, kind, shape, self._integer("<Q")

    def _value(self, kind: int, depth: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array(depth + 1)
        return self._numbers(kind, 1)[0]

    def _array(self, depth: int) -> list[Any]:
        kind = self._integer("<I")
        if depth > MAX_DEPTH:
            raise ValueError(f"lists are nested more than {MAX_DEPTH} deep")
        if kind in (STRING, ARRAY):
            return [self._value(kind, depth) for _ in range(self._count(8))]
        return self._numbers(kind, self._count(1))

    def _numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in NUMBERS:
            raise ValueError(f"a value has type {kind}, expected 0 to 12")
        found: list[Any] = np.frombuffer(self._bytes(count * NUMBERS[kind].itemsize), NUMBERS[kind]).tolist()
        return found

    def _string(self) -> str:
        return self._bytes(self._integer("<Q")).decode("utf-8")

    def _count(self, least_bytes: int) -> int:
        """Read a number of values of at least ``least_bytes`` bytes each."""
        count = self._integer("<Q")
        if count * least_bytes > self._left:
            raise ValueError(f"it states {count} values, {self._left} bytes are left")
        return count

    def _integer(self, form: str) -> int:
        return int(struct.unpack(form, self._bytes(struct.calcsize(form)))[0])

    def _bytes(self, count: int) -> bytes:
        if count > self._left:
            raise ValueError(f"a value has {count} bytes, {self._left} are left")
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError("it ends too early")
        self._left -= count
        return data
