"""Vocabulary in a GGUF file's metadata: tokens, their types, and scores or merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens of ``tokenizer.ggml`` with their types, scores or merges.

    Attributes:
        tokens: texts by id.
        types: type of each token.
        merges: pairs of pieces with a space between, in the order of merging; empty with scores.
        scores: score of each token; empty with merges.
        unknown: id for a character without a token.
        adds_space: whether a space is put before a text.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    unknown: int | None
    adds_space: bool


def read_vocabulary(fields: Mapping[str, Any], path: Path) -> Vocabulary:
    """Read the vocabulary of a file.

    Args:
        fields: the file's metadata.
        path: path of the file, for errors.

    Raises:
        CheckpointError: a key is missing or of another kind.
    """
    is_bpe = fields.get("tokenizer.ggml.model") == "gpt2"
    tokens = _texts(fields, "tokens", path)
    types = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        raise CheckpointError(f"{path}: tokenizer.ggml.token_type is not a list of {len(tokens)} numbers")
    scores = [] if is_bpe else fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or (not is_bpe and len(scores) != len(tokens)):
        raise CheckpointError(f"{path}: tokenizer.ggml.scores is not a list of {len(tokens)} numbers")
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=_texts(fields, "merges", path) if is_bpe else [],
        scores=scores,
        unknown=token_id(fields, "unknown", len(tokens), path),
        adds_space=fields.get("tokenizer.ggml.add_space_prefix", True) is not False,
    )


def token_id(fields: Mapping[str, Any], name: str, count: int, path: Path) -> int | None:
    """Return the id of a named token; None if the file names none.

    Raises:
        CheckpointError: the id is not in the vocabulary.
    """
    found = fields.get(f"tokenizer.ggml.{name}_token_id")
    if found is None or (isinstance(found, int) and 0 <= found < count):
        return found
    raise CheckpointError(
        f"{path}: tokenizer.ggml.{name}_token_id is {found}, expected one of the vocabulary's {count}"
    )


def added_tokens(words: Vocabulary) -> list[dict[str, Any]]:
    """Return the tokens that are found in a text before it is split, in the format of tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": words.tokens[i], **flags, "special": kind != USER_DEFINED}
        for i, kind in enumerate(words.types)
        if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    ]


def _texts(fields: Mapping[str, Any], key: str, path: Path) -> list[str]:
    found = fields.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise CheckpointError(f"{path}: tokenizer.ggml.{key} is missing, expected a list of texts")
    return found
