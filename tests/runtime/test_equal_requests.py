"""Equal requests give equal logits to the bit, whatever the cache holds: 4-bit kernels round otherwise for one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import palmtop
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.prefill import ROWS_OF_A_TILE, PrefillChunk, prefill_step
from palmtop.runtime.session import Session

SEEDED = GenerationOptions(max_tokens=8, temperature=1.5, seed=3)
FILLER = "the quick brown fox jumps over the lazy dog again "


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


DIALOGUE = [*ask("one two"), {"role": "assistant", "content": "nine four"}, *ask("words: 12. What is it?")]
REQUESTS = {
    "short": ask("words: 9942. What is it?"),
    "one token behind a chunk": ask(FILLER * 9),
    "dialogue": DIALOGUE,
}


@pytest.fixture
def session(int4_bundle: Path) -> Any:
    with palmtop.load(int4_bundle, threads=1) as loaded:
        yield loaded


def first_logits(session: Session, messages: list[dict[str, str]], options: GenerationOptions) -> NDArray[np.float32]:
    """Of the first token of an answer."""
    answer = session.chat(messages, options=options)
    next(answer)
    assert session._default is not None
    track: Any = session._default._track
    held = len(track.ids)
    logits: NDArray[np.float32] = track.logits().copy()
    answer.close()
    assert held == len(track.ids)
    return logits


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("between", ["nothing", "another question", "the question before it", "a part of it"])
def test_a_request_reads_the_same_whatever_was_cached(session: Session, name: str, between: str) -> None:
    messages = REQUESTS[name]
    first = first_logits(session, messages, SEEDED)
    if between == "another question":
        session.answer(ask("hello"), options=SEEDED)
    elif between == "the question before it":
        session.answer(messages[:1], options=SEEDED)
    elif between == "a part of it":
        session.answer(ask(messages[0]["content"][:-1]), options=SEEDED)
    assert (first_logits(session, messages, SEEDED) == first).all()


def test_an_answer_read_token_by_token_is_read_again_for_a_seed(session: Session) -> None:
    """The dialogue goes on with what was sampled here; later the same dialogue comes to an empty cache."""
    question = ask("words: 9942. What is it?")
    said = session.answer(question, options=SEEDED)
    dialogue = [*question, {"role": "assistant", "content": said.text}, *ask("words: 31. What is it?")]
    warm = first_logits(session, dialogue, SEEDED)
    session.answer(ask("hello"), options=SEEDED)
    assert (first_logits(session, dialogue, SEEDED) == warm).all()


def test_without_a_seed_an_earlier_answer_is_not_read_again(session: Session) -> None:
    question = ask("words: 9942. What is it?")
    said = session.answer(question)
    dialogue = [*question, {"role": "assistant", "content": said.text}, *ask("words: 31. What is it?")]
    assert session.answer(dialogue).usage.cached_tokens >= said.usage.prompt_tokens + said.usage.completion_tokens


@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 16, 17, 33, 128, 129, 130, 257, 385, 513])
@pytest.mark.parametrize("chunk", [2, 3, 8, 128, 129, 256, 512])
def test_no_step_of_a_prompt_leaves_a_row_alone(length: int, chunk: int) -> None:
    left = length
    while left:
        size = prefill_step(left, chunk)
        assert size % ROWS_OF_A_TILE != 1
        assert 0 < size <= chunk + 1
        left -= size
    assert left == 0


def test_a_step_is_as_long_as_its_time_allows() -> None:
    chunk = PrefillChunk(16, smallest=8, largest=128)
    for tokens, seconds, wanted in (
        (16, 0.05, 128),  # 320 tokens a second
        (128, 0.4, 128),
        (128, 3.0, 32),  # another process came
        (3, 2.0, 32),  # too short to tell
        (32, 60.0, 8),
        (8, 5.0, 8),
        (8, 0.15, 32),
    ):
        chunk.note(tokens, seconds)
        assert chunk.tokens == wanted


def test_a_chunk_that_was_asked_for_stays() -> None:
    chunk = PrefillChunk(24)
    for seconds in (0.001, 30.0):
        chunk.note(24, seconds)
        assert (chunk.tokens, chunk.smallest) == (24, 24)


def test_a_failed_step_says_nothing_of_its_time() -> None:
    chunk = PrefillChunk(16, smallest=8, largest=128)
    with pytest.raises(RuntimeError), chunk.measured(16):
        raise RuntimeError
    assert chunk.tokens == 16
