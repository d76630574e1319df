"""A tokenizer of full size that no one trained: byte-level BPE whose merges are letters, pairs and fours of letters.

Special tokens have upstream's ids. English comes out at about 1.6 letters a token; a trained one reaches four.
"""

from __future__ import annotations

import itertools
import json
import random
import string
from pathlib import Path
from typing import Any

from palmtop.export.checkpoint.gguf.byte_level import Split, byte_level_bpe
from tests.reference.vocabulary import CHAT_TEMPLATE, SPLIT

# Upstream's ids; what lies between them is filled with names nobody types, so that every id decodes.
SPECIAL_IDS = {
    "<|endoftext|>": 199999,
    "<|endoftext10|>": 200010,
    "<|endoftext11|>": 200011,
    "<|endofprompt|>": 200018,
    "<|assistant|>": 200019,
    "<|end|>": 200020,
    "<|user|>": 200021,
    "<|system|>": 200022,
    "<|tool|>": 200023,
    "<|/tool|>": 200024,
    "<|tool_call|>": 200025,
    "<|/tool_call|>": 200026,
    "<|tool_response|>": 200027,
    "<|tag|>": 200028,
}
SPACE = "Ġ"  # how byte-level BPE spells a space


def special_ids(vocab_size: int) -> dict[str, int]:
    """Name to id of the special tokens; moved to the end of a vocabulary smaller than upstream's.

    Raises:
        ValueError: the vocabulary cannot hold 256 bytes and the special tokens.
    """
    if vocab_size > max(SPECIAL_IDS.values()):
        return dict(SPECIAL_IDS)
    first = vocab_size - len(SPECIAL_IDS)
    if first < 256:
        raise ValueError(f"vocab_size is {vocab_size}, expected at least {256 + len(SPECIAL_IDS)}")
    return {name: first + number for number, name in enumerate(SPECIAL_IDS)}


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json, vocab.json and merges.txt."""
    ids = special_ids(vocab_size)
    merges = _merges(min(ids.values()) - 256)
    pieces = [*_byte_alphabet(), *(left + right for left, right in merges)]
    names = {number: name for name, number in ids.items()}
    vocab = {piece: number for number, piece in enumerate(pieces)}
    added = [
        {
            "id": number,
            "content": names.get(number, f"<|unused_{number}|>"),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number in range(len(vocab), vocab_size)
    ]
    _write_json(folder / "tokenizer.json", _document(vocab, merges, added))
    _write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in merges), "utf-8")
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    _write_json(folder / "special_tokens_map.json", special)
    options = {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write_json(folder / "tokenizer_config.json", options | special)


def _merges(count: int) -> list[tuple[str, str]]:
    """Pairs of letters, a space before them, then pairs of pairs in a fixed random order."""
    letters = string.ascii_lowercase
    pairs = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    fours = list(itertools.product(pairs, repeat=2))
    random.Random(0).shuffle(fours)
    merges = itertools.chain(
        ((pair[0], pair[1]) for pair in pairs),
        ((SPACE, letter) for letter in letters),
        ((SPACE, pair) for pair in pairs),
        itertools.chain.from_iterable([(a, b), (SPACE, a + b)] for a, b in fours),
    )
    return list(itertools.islice(merges, count))


def _byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes in byte-level BPE (GPT-2's table), in the order of the bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = itertools.count(256)
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def _document(vocab: dict[str, int], merges: list[tuple[str, str]], added: list[dict[str, Any]]) -> dict[str, Any]:
    # A word that is a token is one: genai takes it whole, merges may not lead there.
    document = byte_level_bpe(vocab, merges, added, split=Split((SPLIT,), ignores_merges=True))
    return {**document, "post_processor": {**document["decoder"], "trim_offsets": False}}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
