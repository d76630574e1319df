"""Positions of the tensors in a ``torch.save`` file, found without torch and without running its pickle.

Such a file is a zip: ``data.pkl`` describes tensors, ``data/<key>`` has the bytes of each storage. A pickle can name
any function to be called; this reader accepts the few names that describe tensors and refuses all others. Format:
torch/serialization.py of PyTorch 1.6 and later (the zip format).
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.unusable.stand_ins import refuse_stand_in
from palmtop.runtime.bundle.stand_ins import START_BYTES

from .safetensors_reader import DTYPES
from .tensor_slice import TensorSlice, file_mark

MAX_PICKLE_BYTES = 64 << 20
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # bytes of a zip entry's header before its name
STORAGES = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}


@dataclass(frozen=True, slots=True)
class _Storage:
    """Key of a storage in the file, and the type of its numbers."""

    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Description of a tensor in the pickle; offset and strides count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def torch_places(path: Path) -> dict[str, TensorSlice]:
    """Tensors by name.

    Raises:
        CheckpointError: the file has another format, or its pickle names other objects than plain tensors.
    """
    try:
        with path.open("rb") as start:
            refuse_stand_in(path, start.read(START_BYTES))
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            name = next((n for n in entries if n.endswith("/data.pkl") and n.count("/") == 1), None)
            if name is None:
                raise CheckpointError(f"{path}: has no data.pkl, expected a file written by torch.save")
            if entries[name].file_size > MAX_PICKLE_BYTES:
                raise CheckpointError(
                    f"{path}: data.pkl has {entries[name].file_size} bytes, too many to describe LoRA"
                )
            tensors = _Reader(archive.read(name), str(path)).read()
        prefix = name.removesuffix("data.pkl")
        return {key: _place(path, key, tensor, entries, prefix) for key, tensor in tensors.items()}
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path}: is not a zip as torch.save writes since version 1.6; load it with torch and save it again with"
            " safetensors.torch.save_file(torch.load(path, weights_only=True), 'adapter_model.safetensors')"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read ({error.strerror or error})") from error


class _Reader(pickle.Unpickler):
    """Unpickler that builds descriptions of tensors only."""

    def __init__(self, data: bytes, where: str) -> None:
        super().__init__(io.BytesIO(data))
        self._where = where

    def read(self) -> dict[str, _Tensor]:
        """Return the descriptions of the tensors by name."""
        try:
            found = self.load()
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle can raise any exception
            raise CheckpointError(f"{self._where}: its pickle is damaged ({error!s:.100})") from error
        if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
            raise CheckpointError(f"{self._where}: holds {type(found).__name__}, expected tensors by name")
        for name, tensor in found.items():
            if not isinstance(tensor, _Tensor):
                raise CheckpointError(f"{self._where}: '{name}' is {type(tensor).__name__}, expected a tensor")
        return found

    def find_class(self, module: str, name: str) -> Any:
        """Return the function for a name of the pickle; refuse names that do not describe tensors."""
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise CheckpointError(
            f"{self._where}: its pickle asks for {module}.{name}, expected plain tensors of floats; if you trust the"
            " file, convert it to safetensors with torch"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage of a persistent id."""
        kind, dtype, key, _location, _count = pid
        if kind != "storage" or dtype not in DTYPES:
            raise CheckpointError(f"{self._where}: its pickle refers to {pid!r:.60}, expected a storage of floats")
        return _Storage(str(key), DTYPES[dtype])


def _rebuild(storage: _Storage, offset: int, shape: Any, strides: Any, *_: object) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(tensor: _Tensor, *_: object) -> _Tensor:
    return tensor


def _place(path: Path, name: str, tensor: _Tensor, entries: dict[str, zipfile.ZipInfo], prefix: str) -> TensorSlice:
    info = entries.get(f"{prefix}data/{tensor.storage.key}")
    if info is None or info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{path}: the bytes of tensor '{name}' are missing or compressed")
    expected, strides = 1, []
    for size in reversed(tensor.shape):
        strides.append(expected)
        expected *= size
    real = [s for s, n in zip(tensor.strides, tensor.shape, strict=False) if n > 1]
    if real != [s for s, n in zip(reversed(strides), tensor.shape, strict=True) if n > 1]:
        raise CheckpointError(f"{path}: tensor '{name}' has strides {list(tensor.strides)}, expected rows in a line")
    itemsize = tensor.storage.dtype.itemsize
    if tensor.offset < 0 or (tensor.offset + expected) * itemsize > info.file_size:
        raise CheckpointError(f"{path}: tensor '{name}' ends behind its {info.file_size} bytes")
    start = _first_byte(path, info)
    offset = start + tensor.offset * itemsize
    return TensorSlice(path, offset, tensor.storage.dtype, tensor.shape, file_mark(path))


def _first_byte(path: Path, info: zipfile.ZipInfo) -> int:
    """Offset of a stored entry's content: behind a header of its own length, not the directory's."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size:
        raise CheckpointError(f"{path}: is truncated")
    *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    return info.header_offset + LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)
