"""A GGUF file as a checkpoint: config and tokenizer made of its metadata, tensors under transformers' names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf

from palmtop.errors import CheckpointError, UnsupportedModelError
from palmtop.export.checkpoint.unusable.stand_ins import START_BYTES, refuse_stand_in

from . import gguf_phi3 as phi3
from .config_section import read_text
from .folder import Checkpoint
from .gguf_reader import GgufPlace
from .gguf_tokenizer import tokenizer_config, tokenizer_json
from .safetensors_reader import TensorFolder
from .tensor_slice import file_mark, refuse_truncated

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class GgufCheckpoint(Checkpoint):
    """One GGUF file (not one part of several), of the architecture ``phi3``; reading 200,000 tokens takes 0.7 GB.

    Where tokenizer.json and tokenizer_config.json lie beside the file they are taken; else they are made.

    Raises:
        CheckpointError: it is not GGUF, is truncated, or lacks something.
        UnsupportedModelError: it holds another architecture.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        fields, places = _read(self.path)
        architecture = fields.get("general.architecture")
        if architecture != phi3.ARCHITECTURE:
            raise UnsupportedModelError(
                f"{self.path}: general.architecture is '{architecture}', expected '{phi3.ARCHITECTURE}'"
            )
        if fields.get("split.count", 1) > 1:
            raise CheckpointError(
                f"{self.path}: is one of {fields['split.count']} parts, expected one file (llama-gguf-split --merge)"
            )
        raw = TensorFolder(self.path, places)
        self.config = phi3.config(fields, raw)
        kept = {phi3.transformers_name(n): p for n, p in places.items() if n not in phi3.FACTORS.values()}
        self._tensors = TensorFolder(self.path, kept)
        self._beside = {}
        self._on_read = None
        self._sha256 = None
        self._made = _small_files(self.path, fields)

    def text(self, name: str) -> str | None:
        """The content of a small file, made or beside; None without."""
        return self._made.get(name)

    def mark(self) -> str:
        """As a folder's; the files beside are part of it."""
        seen: list[Any] = [str(self.path.resolve()), self._tensors.marks, self._made]
        return self._digest(seen)


def _small_files(path: Path, fields: dict[str, Any]) -> dict[str, str]:
    beside = [path.parent / name for name in TOKENIZER_FILES]
    if all(file.is_file() for file in beside):
        made = {file.name: read_text(file) or "" for file in beside}
        _refuse_other_vocabulary(path, fields, made["tokenizer.json"])
    else:
        made = {
            "tokenizer.json": json.dumps(tokenizer_json(fields, path), ensure_ascii=False),
            "tokenizer_config.json": json.dumps(tokenizer_config(fields, path), ensure_ascii=False),
        }
    template = fields.get("tokenizer.chat_template")
    return made if not isinstance(template, str) else {**made, "chat_template.jinja": template}


def _refuse_other_vocabulary(path: Path, fields: dict[str, Any], text: str) -> None:
    """A folder of downloads may hold another model's tokenizer."""
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{path.parent / 'tokenizer.json'}: is not a tokenizer ({error})") from error
    tokens = fields.get("tokenizer.ggml.tokens") or []
    size = found.get_vocab_size(with_added_tokens=True)
    same = sum(found.id_to_token(i) == token for i, token in enumerate(tokens[:size]))
    if not tokens or same < 0.9 * min(size, len(tokens)):
        raise CheckpointError(
            f"{path.parent / 'tokenizer.json'}: {same} of its {size} tokens are those of {path.name}, expected the"
            " tokenizer of the same model"
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, GgufPlace]]:
    """Metadata and tensor places; the reader, which holds a view of each string, is let go of."""
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        mark = file_mark(path)
        with path.open("rb") as start:
            refuse_stand_in(path, start.read(START_BYTES))
        reader = gguf.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        places = {
            t.name: GgufPlace(path, int(t.data_offset), t.tensor_type, tuple(int(n) for n in reversed(t.shape)), mark)
            for t in reader.tensors
        }
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read ({error.strerror or error})") from error
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path}: is truncated or not GGUF ({' '.join(str(error).split())})") from error
    refuse_truncated(path, places)
    return fields, places
