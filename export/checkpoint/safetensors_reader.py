"""Reader of the tensors in a folder of safetensors files, by name. Independent of models.

The safetensors layout (8-byte length, JSON header, bytes) is parsed here because the library returns whole tensors, and
bfloat16 only through torch.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.unusable.quantized import FLOAT_WANTED
from palmtop.export.checkpoint.unusable.stand_ins import refuse_stand_in
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.stand_ins import START_BYTES

from .config_section import read_json_object
from .lazy_tensor import LazyTensor
from .tensor_slice import Place, TensorSlice, mark_of, read_blocks, read_rows, refuse_truncated

INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors library
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Further types of whole bytes in the format: buffers and quantised weights use them; no weight is read from them.
OTHER_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    **{f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)},
}


class SafetensorsReader:
    """All tensors of a folder: of the shards an index names, or of every safetensors file in it.

    Attributes:
        path: the folder.
        on_read: callback for the name and bytes of every read, for progress.

    Raises:
        CheckpointError: there are no tensors, or a file is missing, truncated, or contradicts another.
    """

    def __init__(self, path: Path, places: Mapping[str, Place] | None = None) -> None:
        self.path = path
        self.on_read: Callable[[str, int], None] | None = None
        self._places: Mapping[str, Place] = _find_tensors(path) if places is None else places

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._places)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(place.size_bytes for place in self._places.values())

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the tensor's shape; None if there is no such tensor."""
        place = self._places.get(name)
        return None if place is None else place.shape

    def weight(self, name: str) -> LazyTensor:
        """A tensor, to be read later.

        Raises:
            CheckpointError: there is no such tensor.
        """
        place = self._places.get(name)
        if place is None:
            raise CheckpointError(f"{self.path}: tensor '{name}' is missing")
        if isinstance(place, TensorSlice) and place.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{place.file}: tensor '{name}' has type {place.stored_as}, expected one of {', '.join(DTYPES)}:"
                f" {FLOAT_WANTED}"
            )

        def read(start: int, stop: int) -> bytes:
            data = read_rows(name, place, start, stop)
            if self.on_read is not None:
                self.on_read(name, len(data))
            return data

        def rows(start: int, stop: int) -> NDArray[np.float32]:
            return place.floats(read(start, stop), stop - start)

        def coded(start: int, stop: int, scheme: Scheme) -> QuantizedTensor | None:
            return place.coded(read(start, stop), stop - start, scheme)

        return LazyTensor(name, place.shape, rows, coded if place.is_quantized else None)

    def sha256(self, workers: Workers | None = None) -> str:
        """Return a hash of names, types, shapes and each tensor's own hash, independent of the sharding.

        Raises:
            CheckpointError: a tensor could not be read to its end.
        """

        def one(name: str) -> str:
            place, digest = self._places[name], hashlib.sha256()
            for block in read_blocks(name, place):
                digest.update(block)
            return f"{name}:{place.stored_as}:{list(place.shape)}:{digest.hexdigest()}\n"

        whole = hashlib.sha256()
        for line in (workers or Workers()).map(one, self.names):
            whole.update(line.encode())
        return whole.hexdigest()

    @property
    def marks(self) -> dict[str, tuple[int, int, int]]:
        """Return inode, size and modification time of every shard, which change when one is replaced."""
        return {place.file.name: place.mark for place in self._places.values()}


def _find_tensors(folder: Path) -> dict[str, TensorSlice]:
    try:
        return _list_tensors(folder)
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder}: could not be read ({error.strerror or error})") from error


def _list_tensors(folder: Path) -> dict[str, TensorSlice]:
    index = folder / INDEX_FILE
    if index.is_file():
        mapping = read_json_object(index).get("weight_map")
        if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
            raise CheckpointError(f"{index}: weight_map is missing, expected tensor names to file names")
        places: dict[str, TensorSlice] = {}
        for shard in sorted(set(mapping.values())):
            if Path(shard).name != shard:
                raise CheckpointError(f"{index}: shard name '{shard}' leads out of the checkpoint")
            if not (folder / shard).is_file():
                raise CheckpointError(f"{folder}: shard '{shard}' is missing, the index names it")
            places.update(_read_header(folder / shard))
        for name, shard in mapping.items():
            if name not in places or places[name].file.name != shard:
                raise CheckpointError(f"{folder}: tensor '{name}' is not in shard '{shard}' as the index says")
        return places
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: no safetensors file there")
    places = {}
    for file in files:
        for name, place in _read_header(file).items():
            if name in places:
                raise CheckpointError(f"{file}: tensor '{name}' is also in '{places[name].file.name}'")
            places[name] = place
    return places


def _read_header(file: Path) -> dict[str, TensorSlice]:
    try:
        return _parse_header(file)
    except OSError as error:
        raise CheckpointError(f"{file}: could not be read ({error.strerror or error})") from error


def _parse_header(file: Path) -> dict[str, TensorSlice]:
    with file.open("rb") as stream:
        mark = mark_of(stream)
        size_bytes = mark[1]
        start = stream.read(8)
        refuse_stand_in(file, start + stream.read(START_BYTES))
        stream.seek(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise CheckpointError(
                f"{file}: is truncated or not safetensors (header of {length} bytes in a file of {size_bytes})"
            )
        try:
            header = json.loads(stream.read(length), object_pairs_hook=_without_repeats)
            places = {
                name: _place(file, 8 + length, name, entry, mark)
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except RecursionError as error:
            raise CheckpointError(f"{file}: the safetensors header is nested too deeply") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{file}: the safetensors header is not valid ({error})") from error
    refuse_truncated(file, places)
    _refuse_overlaps_and_holes(file, 8 + length, places, size_bytes)
    return places


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in found if names.count(name) > 1)}' is there twice")
    return found


def _refuse_overlaps_and_holes(file: Path, base: int, places: Mapping[str, TensorSlice], size_bytes: int) -> None:
    """The format wants every byte behind the header to belong to exactly one tensor."""
    end, before = base, "the header"
    for name, place in sorted(places.items(), key=lambda item: (item[1].offset, item[1].size_bytes)):
        if place.offset != end:
            what = "overlap" if place.offset < end else f"are {place.offset - end} bytes apart"
            raise CheckpointError(
                f"{file}: is not valid safetensors: tensor '{name}' and {before} {what}, expected one after the other"
            )
        end, before = place.offset + place.size_bytes, f"'{name}'"
    if end != size_bytes:
        raise CheckpointError(
            f"{file}: is not valid safetensors: {size_bytes - end} bytes follow the last tensor, expected none"
        )


def _place(file: Path, base: int, name: str, entry: dict[str, Any], mark: tuple[int, int, int]) -> TensorSlice:
    dtype = {**DTYPES, **OTHER_DTYPES}.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(
            f"{file}: tensor '{name}' has type {entry['dtype']}, expected one of {', '.join(DTYPES)}: {FLOAT_WANTED}"
        )
    start, stop = entry["data_offsets"]
    place = TensorSlice(file, base + int(start), dtype, tuple(int(n) for n in entry["shape"]), mark)
    if start < 0 or stop - start != place.size_bytes or min(place.shape, default=0) < 0:
        raise CheckpointError(
            f"{file}: tensor '{name}' has {stop - start} bytes, expected {place.size_bytes} for {list(place.shape)}"
        )
    return place
