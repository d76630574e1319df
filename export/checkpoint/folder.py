"""Checkpoint folder: config.json, small JSON files, tensors, and adapters beside them. Independent of architectures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.unusable.quantized import refuse_quantized_config, refuse_quantized_tensors
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.workers import Workers

from .config_section import parse_json_object, read_text
from .lazy_tensor import LazyTensor
from .safetensors_reader import SafetensorsReader


class Checkpoint:
    """A checkpoint folder with config.json and safetensors weights.

    Raises:
        CheckpointError: a file or key is missing, truncated, or contradicts another.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            if not self.path.is_dir():
                raise CheckpointError(f"{self.path}: no such folder, expected a checkpoint with config.json")
        except OSError as error:
            raise CheckpointError(f"{self.path}: could not be read ({error.strerror or error})") from error
        self.config = self.json("config.json")
        refuse_quantized_config(self.path, self.config)
        self._tensors = SafetensorsReader(self.path)
        refuse_quantized_tensors(self.path, self.names)
        self._beside: dict[str, SafetensorsReader] = {}
        self._on_read: Callable[[str, int], None] | None = None
        self._sha256: tuple[int, str] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the tensors, sorted; without those of adapters beside."""
        return self._tensors.names

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors, those of opened adapters beside included."""
        return sum(folder.size_bytes for folder in (self._tensors, *self._beside.values()))

    def report_reads(self, on_read: Callable[[str, int], None] | None) -> None:
        """Set a callback for the name and bytes of every read."""
        self._on_read = on_read
        for folder in (self._tensors, *self._beside.values()):
            folder.on_read = on_read

    @property
    def adds_bos(self) -> bool:
        """Whether prompts begin with BOS though the template does not write it; False here, as in transformers."""
        return False

    def grid_notes(self, linears: Scheme | None, head: Scheme | None) -> list[str]:
        """Return notes for the user on weights that were quantised before; none for floats.

        Args:
            linears: scheme of the decoder's linears; None for floats.
            head: scheme of the embedding and the head; None for floats.
        """
        return []

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object in the folder.

        Raises:
            CheckpointError: the file is missing or not an object.
        """
        text = self.text(name)
        if text is None:
            raise CheckpointError(f"{self.path}: '{name}' is missing")
        return parse_json_object(text, str(self.path / name))

    def text(self, name: str) -> str | None:
        """Return a small text file in the folder; None if it does not exist.

        Raises:
            CheckpointError: the file cannot be read.
        """
        return read_text(self.path / name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the tensor's shape; None if there is no such tensor."""
        return self._tensors.shape(name)

    def weight(self, name: str) -> LazyTensor:
        """A tensor, to be read later.

        Raises:
            CheckpointError: there is no such tensor.
        """
        return self._tensors.weight(name)

    def has_beside(self, name: str) -> bool:
        """Return whether there is a folder of this name with a PEFT adapter."""
        try:
            return (self.path / name / "adapter_config.json").is_file()
        except OSError as error:
            raise CheckpointError(f"{self.path / name}: could not be read ({error.strerror or error})") from error

    def beside(self, name: str) -> SafetensorsReader:
        """The tensors of a PEFT adapter in a folder of this name.

        Raises:
            CheckpointError: there is no such folder.
        """
        if name not in self._beside:
            if not self.has_beside(name):
                raise CheckpointError(f"{self.path}: no folder '{name}' with adapter_config.json there")
            self._beside[name] = SafetensorsReader(self.path / name)
            self._beside[name].on_read = self._on_read
        return self._beside[name]

    def sha256(self, workers: Workers | None = None) -> str:
        """Return a hash of config, tensors and opened adapters beside; computed once.

        Raises:
            CheckpointError: a file could not be read.
        """
        folders = (self._tensors, *self._beside.values())
        if self._sha256 is None or self._sha256[0] != len(folders):
            digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
            for folder in folders:
                digest.update(folder.sha256(workers).encode())
            self._sha256 = (len(folders), digest.hexdigest())
        return self._sha256[1]

    def mark(self) -> str:
        """Return a key of config and of the files' inodes, sizes and times; tells checkpoints apart without reading.

        Raises:
            CheckpointError: a file could not be read.
        """
        seen = [[str(folder.path.resolve()), folder.marks] for folder in (self._tensors, *self._beside.values())]
        small = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.path.iterdir())
            if path.is_file() and path.suffix in (".json", ".jinja", ".txt", ".model")
        }
        return self._digest([seen, small])

    @staticmethod
    def _digest(seen: list[Any]) -> str:
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()
