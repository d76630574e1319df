from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from palmtop.runtime.processor.pieces import Utf8Pieces

TEXTS = [Path(__file__).read_text(encoding="utf-8"), "日本語 👩‍🚀👍🏽 naïve Übergröße " * 9]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Byte-level, few merges: an emoji is four tokens or more."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|end|>", "<|user|>"])
    return tokenizer


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """Words with a visible space, whose first one the decoder drops, and bytes for rare characters."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<0x00>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=fallback, limit_alphabet=60, show_progress=False)
    tokenizer.train_from_iterator(TEXTS[:1], trainer)
    data = tokenizer.to_str()
    assert '"byte_fallback":true' in data.replace(" ", "")
    return tokenizer


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    pieces = Utf8Pieces(tokenizer)
    return [pieces.push(token) for token in ids] + [pieces.flush()]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80))
@example(text="👩‍🚀" * 20)
@example(text="\ufffd" * 60)
@example(text="a\ufffd👍🏽\ufffd")
def test_the_pieces_are_the_text(text: str, tokenizer: Tokenizer) -> None:
    pieces = stream(tokenizer, tokenizer.encode(text).ids)
    assert "".join(pieces) == text
    "".join(pieces[:-1]).encode()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, 321), max_size=80))
def test_any_tokens_give_what_the_decoder_gives(ids: list[int], tokenizer: Tokenizer) -> None:
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_an_unfinished_character_is_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🦜b").ids
    pieces = stream(tokenizer, ids)
    assert len(ids) > 4
    assert [piece for piece in pieces if piece] == ["a", "🦜", "b"]


def test_a_character_that_is_never_finished_shows_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("hi🦜").ids[:-1]
    pieces = stream(tokenizer, ids)
    assert "\ufffd" not in "".join(pieces[:-1])
    assert pieces[-1] == "\ufffd"


def test_special_tokens_are_skipped(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|user|>yes<|end|>").ids
    assert len(ids) >= 3
    assert "".join(stream(tokenizer, ids)) == "yes"


def test_spaces_of_sentencepiece_are_kept(sentencepiece: Tokenizer) -> None:
    text = "from pathlib import Path assert pieces " * 6
    ids = sentencepiece.encode(text).ids
    assert "".join(stream(sentencepiece, ids)) == sentencepiece.decode(ids)


def test_flush_starts_anew(tokenizer: Tokenizer) -> None:
    pieces = Utf8Pieces(tokenizer)
    for _ in range(2):
        shown = "".join(pieces.push(token) for token in tokenizer.encode("one two").ids) + pieces.flush()
        assert shown == "one two"
    assert pieces.flush() == ""
