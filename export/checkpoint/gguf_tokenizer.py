"""tokenizer.json and tokenizer_config.json of a GGUF file's byte-level BPE vocabulary.

A GGUF names how text is split before BPE by a word (``tokenizer.ggml.pre``); the expressions are those that the models'
own tokenizer.json have under these names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palmtop.errors import CheckpointError

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + MARKS
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-4o": O200K,  # Phi-4-mini
    "dbrx": CL100K,  # Phi-4
    "llama-bpe": CL100K,
    "qwen2": CL100K.replace("{1,3}", ""),
}
CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type: found in the text before BPE
UNUSED = 5  # fills the table up to its padded size
TEMPLATE = "tokenizer.chat_template"


def tokenizer_json(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The tokenizer, as the tokenizers library reads it.

    Args:
        fields: the file's metadata.
        path: of the file, for errors.

    Raises:
        CheckpointError: it is of a kind whose rules the file does not hold, or a key is missing.
    """
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in SPLITS:
        raise CheckpointError(
            f"{path}: its tokenizer is '{kind}' split as '{pre}', expected 'gpt2' and one of {', '.join(SPLITS)};"
            " or the model's own tokenizer.json and tokenizer_config.json beside the file"
        )
    tokens, merges = _texts(fields, "tokens", path), _texts(fields, "merges", path)
    types = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        raise CheckpointError(f"{path}: tokenizer.ggml.token_type is not a list of {len(tokens)} numbers")
    special = [i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    added = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[i] == CONTROL,
        }
        for i in special
    ]
    # All of them: tokenizers numbers an added token that is not among them after the last, whatever its id.
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    pairs = [merge.split(" ", 1) for merge in merges]
    return byte_level_bpe(vocab, pairs, added, split=SPLITS[pre], ignore_merges=pre == "llama-bpe")


def byte_level_bpe(
    vocab: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    added: Sequence[Mapping[str, Any]],
    *,
    split: str,
    ignore_merges: bool,
) -> dict[str, Any]:
    """tokenizer.json of byte-level BPE.

    Args:
        vocab: id by piece.
        merges: pairs of pieces, the first to be merged first.
        added: tokens that are found in the text before.
        split: expression whose matches are tokenised by themselves.
        ignore_merges: a match that is a piece is one, whatever the merges lead to.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    }


def tokenizer_config(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """tokenizer_config.json: the named tokens and the chat template."""
    tokens = _texts(fields, "tokens", path)
    named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": fields.get(TEMPLATE)}
    for name, key in named.items():
        i = fields.get(f"tokenizer.ggml.{key}_token_id")
        if i is None:
            continue
        if not isinstance(i, int) or not 0 <= i < len(tokens):
            raise CheckpointError(
                f"{path}: tokenizer.ggml.{key}_token_id is {i}, expected one of the vocabulary's {len(tokens)}"
            )
        config[name] = tokens[i]
    return config


def _texts(fields: Mapping[str, Any], key: str, path: Path) -> list[str]:
    found = fields.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise CheckpointError(f"{path}: tokenizer.ggml.{key} is missing, expected a list of texts")
    return found
