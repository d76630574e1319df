"""tokenizer.json from a GGUF file's SentencePiece vocabulary (``tokenizer.ggml.model`` "llama"): BPE by scores.

Two neighbouring pieces are merged if the result has the highest score. The tokenizers library needs the merges as a
list, which follows from the pieces. Equal scores are ordered by the longer left part, then by the longer right one, as
in the models' own tokenizer.json.
"""

from __future__ import annotations

from typing import Any

from .vocabulary import NORMAL, UNUSED, Vocabulary, added_tokens

SPACE = "▁"


def sentencepiece_tokenizer(words: Vocabulary) -> dict[str, Any]:
    """Return the tokenizer in the format of the tokenizers library."""
    vocab: dict[str, int] = {}
    for i, token in enumerate(words.tokens):
        if words.types[i] != UNUSED:
            vocab.setdefault(token, i)  # of two equal ones the first is used
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefix = [{"type": "Prepend", "prepend": SPACE}] if words.adds_space else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if words.adds_space else []
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *strip,
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(words),
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, space]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if words.unknown is None else words.tokens[words.unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(words, vocab),
        },
    }


def _merges(words: Vocabulary, vocab: dict[str, int]) -> list[list[str]]:
    """Pairs of pieces whose concatenation is a piece, in the order of merging."""
    found: list[tuple[float, int, int, str, str]] = []
    for token, kind, score in zip(words.tokens, words.types, words.scores, strict=True):
        if kind != NORMAL:
            continue
        parts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(left, right) for left, right in parts if left in vocab and right in vocab]
        known.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        found += [(score, len(left), len(right), left, right) for left, right in known]
    found.sort(key=lambda each: each[:3], reverse=True)
    return [[left, right] for *_, left, right in found]
