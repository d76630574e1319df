"""GGUF file as a checkpoint: config and tokenizer from its metadata, tensors with transformers' names."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError, UnsupportedModelError
from palmtop.export.checkpoint.config_section import nearest, read_text
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import LazyTensor
from palmtop.export.checkpoint.safetensors_reader import SafetensorsReader
from palmtop.quantize.scheme import Scheme

from .config import make_config
from .families import FAMILIES, MODEL
from .header import read_header
from .place import GgufSlice
from .rows import in_halves
from .scaling import TENSORS
from .tokenizer import adds_bos, tokenizer_config, tokenizer_json

FLOATS = ("F64", "F32", "F16", "BF16")
KEPT_BYTES = 1 << 20  # bytes of float32 that are checked together
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class GgufCheckpoint(Checkpoint):
    """One GGUF file (not one part of several) of an architecture in ``families``.

    A tokenizer.json and tokenizer_config.json beside the file are used; otherwise they are made.

    Raises:
        CheckpointError: the file is not GGUF, is truncated, or lacks a part.
        UnsupportedModelError: the file has another architecture.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        fields, places = read_header(self.path)
        architecture = fields.get("general.architecture")
        if not isinstance(architecture, str) or architecture not in FAMILIES:
            raise UnsupportedModelError(
                f"{self.path}: general.architecture is {architecture!r:.60}, expected one of {', '.join(FAMILIES)}"
                f"{nearest(str(architecture), FAMILIES)}"
            )
        if fields.get("general.type", "model") != "model":
            raise CheckpointError(f"{self.path}: general.type is {fields['general.type']!r:.60}, expected 'model'")
        parts = fields.get("split.count", 1)
        if parts != 1:
            raise CheckpointError(f"{self.path}: is one of {parts} parts, expected one file (llama-gguf-split --merge)")
        self._family = FAMILIES[architecture]
        self.config = make_config(self._family, fields, SafetensorsReader(self.path, places))
        kept, self._gguf_names = dict[str, GgufSlice](), dict[str, str]()
        for own, place in places.items():
            if own not in TENSORS:
                apart = self._family.apart(own, place)
                kept |= apart
                self._gguf_names |= dict.fromkeys(apart, own)
        self.kinds = {name: place.kind for name, place in kept.items()}
        self._tensors = SafetensorsReader(self.path, kept)
        self._beside = {}
        self._on_read = None
        self._sha256 = None
        self._made = _small_files(self.path, fields)
        self._adds_bos = adds_bos(fields)

    @property
    def adds_bos(self) -> bool:
        """Whether prompts begin with BOS, from the metadata."""
        return self._adds_bos

    def weight(self, name: str) -> LazyTensor:
        """Return a tensor that is read when needed, with rows in transformers' order.

        Raises:
            CheckpointError: there is no such tensor, or its rows are not those of whole heads.
        """
        weight = super().weight(name)
        key = self._family.heads_key(self._gguf_names[name])
        return weight if key is None else in_halves(weight, int(self.config[key]), self.path)

    def grid_notes(self, linears: Scheme | None, head: Scheme | None) -> list[str]:
        """Return notes on how many matrices keep the file's codes, and which types are rounded once more."""
        kept, rounded = 0, Counter[str]()
        for name, kind in self.kinds.items():
            weight, scheme = self.weight(name), head if name in MODEL.values() else linears
            if scheme is None or len(weight.shape) != 2 or kind.name in FLOATS:
                continue
            if _is_kept(weight, scheme):
                kept += 1
            else:
                rounded[kind.name] += 1
        if not rounded:
            return []
        types = ", ".join(f"{count} in {kind}" for kind, count in sorted(rounded.items()))
        return [
            f"{self.path.name}: {rounded.total()} of its {kept + rounded.total()} quantised matrices are rounded once"
            f" more ({types}); Q4_0 at 4 bits and Q8_0 at 8 bits are kept bit for bit in groups of 32"
        ]

    def text(self, name: str) -> str | None:
        """Return the content of a small file, made or beside; None if there is none."""
        return self._made.get(name)

    def mark(self) -> str:
        """Return a key of the checkpoint, as for a folder; files beside it are included."""
        seen: list[Any] = [str(self.path.resolve()), self._tensors.marks, self._made]
        return self._digest(seen)


def _is_kept(weight: LazyTensor, scheme: Scheme) -> bool:
    """Return whether the codes of every row can be kept; the search ends at the first rows that cannot."""
    coded = weight.coded
    return coded is not None and all(coded(*rows, scheme) is not None for rows in weight.ranges(KEPT_BYTES))


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
    """Refuse the tokenizer of another model, which a folder of downloads may contain."""
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
