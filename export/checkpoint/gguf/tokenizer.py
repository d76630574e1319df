"""tokenizer.json and tokenizer_config.json from a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError

from .byte_level import SPLITS, byte_level_tokenizer
from .sentencepiece import sentencepiece_tokenizer
from .vocabulary import read_vocabulary, token_id

TEMPLATE = "tokenizer.chat_template"
NAMED = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
ADD_BOS_PRES = ("llama-bpe", "llama3", "llama-v3")  # kinds whose files add it by default


def tokenizer_json(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the tokenizer in the format of the tokenizers library.

    Args:
        fields: the file's metadata.
        path: path of the file, for errors.

    Raises:
        CheckpointError: the tokenizer is of a kind whose rules the file does not contain, or a key is missing.
    """
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind == "llama":
        return sentencepiece_tokenizer(read_vocabulary(fields, path))
    if kind != "gpt2" or pre not in SPLITS:
        raise CheckpointError(
            f"{path}: its tokenizer is '{kind}' split as '{pre}', expected 'llama', or 'gpt2' and one of"
            f" {', '.join(SPLITS)}; or the model's own tokenizer.json and tokenizer_config.json beside the file"
        )
    return byte_level_tokenizer(read_vocabulary(fields, path), SPLITS[pre])


def tokenizer_config(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return tokenizer_config.json: the named tokens and the chat template."""
    tokens = read_vocabulary(fields, path).tokens
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": fields.get(TEMPLATE)}
    ids = {name: token_id(fields, key, len(tokens), path) for name, key in NAMED.items()}
    return config | {name: tokens[i] for name, i in ids.items() if i is not None}


def adds_bos(fields: Mapping[str, Any]) -> bool:
    """Return whether a prompt begins with the BOS token although the chat template does not write it."""
    is_usual = fields.get("tokenizer.ggml.model") == "llama" or fields.get("tokenizer.ggml.pre") in ADD_BOS_PRES
    return fields.get("tokenizer.ggml.add_bos_token", is_usual) is True
