"""tokenizer.json from a GGUF file's byte-level BPE vocabulary (``tokenizer.ggml.model`` "gpt2").

A GGUF file names the split before BPE by a word (``tokenizer.ggml.pre``); the expressions are those of the models' own
tokenizer.json with these names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .vocabulary import UNUSED, Vocabulary, added_tokens

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + MARKS
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class Split:
    """Rules that split text into the words for BPE.

    Attributes:
        expressions: expressions whose matches are separate words, applied one after the other.
        ignores_merges: whether a word that is a piece stays whole, without merges.
        composes: whether text is converted to Unicode's NFC first; GGUF files do not contain this.
    """

    expressions: tuple[str, ...]
    ignores_merges: bool = False
    composes: bool = False


LLAMA3 = Split((CL100K,), ignores_merges=True)
DIGITS = Split((r"\p{N}", GPT2))  # digits one by one first
QWEN2 = Split((CL100K.replace("{1,3}", ""),), composes=True)
# Letters with their combining marks.
QWEN35 = Split(
    (
        CL100K.replace("{1,3}", "")
        .replace(r"\p{L}+", r"[\p{L}\p{M}]+")
        .replace(MARKS, MARKS.replace(r"^\s\p{L}", r"^\s\p{L}\p{M}")),
    ),
    composes=True,
)
SPLITS = {
    "gpt-4o": Split((O200K,)),  # Phi-4-mini
    "dbrx": Split((CL100K,)),  # Phi-4
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "smaug-bpe": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "qwen35": QWEN35,
    "smollm": DIGITS,
    "refact": DIGITS,
    "starcoder": DIGITS,
    "command-r": DIGITS,
    "gpt-2": Split((GPT2,)),
}


def byte_level_tokenizer(words: Vocabulary, split: Split) -> dict[str, Any]:
    """Return the tokenizer in the format of the tokenizers library."""
    # All of them: tokenizers numbers an added token outside the vocabulary after the last one, not by its id.
    vocab = {token: i for i, token in enumerate(words.tokens) if words.types[i] != UNUSED}
    pairs = [merge.split(" ", 1) for merge in words.merges]
    return byte_level_bpe(vocab, pairs, added_tokens(words), split=split)


def byte_level_bpe(
    vocab: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    added: Sequence[Mapping[str, Any]],
    *,
    split: Split,
) -> dict[str, Any]:
    """Return tokenizer.json of byte-level BPE.

    Args:
        vocab: ids by piece.
        merges: pairs of pieces, in the order of merging.
        added: tokens that are found in the text before splitting.
        split: rules for splitting text.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if split.composes else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                *(
                    {"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated", "invert": False}
                    for each in split.expressions
                ),
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
            "ignore_merges": split.ignores_merges,
            "vocab": vocab,
            "merges": merges,
        },
    }
