"""Dialogues on the toy bundle: native decoder, true KV cache, feature rows made up."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from palmtop.errors import InputError, MemoryPlanError
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.chat.reply import Piece, Reply
from palmtop.runtime.decoding.decoder import TokenSequence
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import Session, SessionOptions
from tests.runtime.toy import AUDIO, CONTEXT, END, IMAGE, ORIGINAL_CONTEXT, VOCAB, FakeEncoders

SHORT = GenerationOptions(max_tokens=5)
RANDOM = GenerationOptions(max_tokens=12, temperature=3.0, seed=3)


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (60, 60, 3), dtype=np.uint8)


def sound(seed: int = 0) -> tuple[NDArray[np.float32], int]:
    return np.random.default_rng(seed).standard_normal(16000, np.float32) * np.float32(0.1), 16000


def with_image(text: str, seed: int = 0) -> list[dict[str, Any]]:
    return [{"type": "image", "image": picture(seed)}, {"type": "text", "text": text}]


def with_audio(text: str, seed: int = 0) -> list[dict[str, Any]]:
    return [{"type": "audio", "audio": sound(seed)}, {"type": "text", "text": text}]


def finish(pieces: Iterator[Piece]) -> Reply:
    *_, last = pieces
    assert last.reply is not None
    return last.reply


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Witness:
    """Notes the logits and ids that every answer of a conversation began with."""

    def __init__(self, conversation: Conversation) -> None:
        self.seen: list[tuple[TokenSequence, NDArray[np.float32], NDArray[np.float32]]] = []
        track = conversation._track
        prefill = track.prefill

        def noting(
            passage: TokenSequence, gates: NDArray[np.float32], cancelled: Callable[[], bool], **how: bool
        ) -> Any:
            result = prefill(passage, gates, cancelled, **how)
            self.seen.append((passage, gates, track.logits().copy()))
            return result

        track.prefill = noting  # type: ignore[method-assign]


def fresh_logits(
    session: Session, source: Conversation, passage: TokenSequence, gates: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What a generator that never saw anything else gives for the same sequence and features."""
    track = session.conversation()._track
    buffer = source._track._ready().inputs.media_features
    assert buffer is not None
    starts = np.cumsum([0] + [span.rows for span in passage.media])
    track.write_media(passage, lambda n: buffer[starts[n] : starts[n + 1]])
    track.prefill(passage, gates, lambda: False)
    return track.logits()


def assert_as_fresh(session: Session, conversation: Conversation, witness: Witness) -> None:
    for passage, gates, logits in witness.seen:
        if passage.media and passage is not witness.seen[-1][0]:
            continue  # the feature buffer is the last turn's
        np.testing.assert_allclose(logits, fresh_logits(session, conversation, passage, gates), atol=2e-5)


def test_second_turn_reads_only_what_is_new(toy_session: Session) -> None:
    conversation = toy_session.conversation(system="be brief")
    first = finish(conversation.chat("hi", options=SHORT))
    second = finish(conversation.chat("more", options=SHORT))
    # all of the first prompt and all but the last sampled token, which the decoder had not read yet
    assert second.usage.cached_tokens == first.usage.prompt_tokens + len(first.token_ids) - 1
    assert second.usage.reprefilled is None


@pytest.mark.parametrize("ending", ["max_tokens", "eos", "stop_string", "cancelled", "closed"])
def test_turns_equal_a_fresh_generator_however_the_last_one_ended(
    toy_session: Session, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = toy_session.conversation()
    witness = Witness(conversation)
    options = GenerationOptions(max_tokens=6, temperature=2.0, seed=1)
    if ending == "eos":
        sampled = iter([70, 71, 72, END])
        monkeypatch.setattr("palmtop.runtime.decoding.generate.Sampler.draw", lambda *_: next(sampled))
        reply = finish(conversation.chat("one", options=options))
        monkeypatch.undo()
        assert (reply.ended_by, reply.token_ids) == ("eos", (70, 71, 72))
    elif ending == "stop_string":
        sampled = iter([70, 71, 72, 73])
        monkeypatch.setattr("palmtop.runtime.decoding.generate.Sampler.draw", lambda *_: next(sampled))
        stop = toy_session._processor.text.decode([72])
        reply = finish(conversation.chat("one", options=GenerationOptions(stop=(stop,))))
        monkeypatch.undo()
        assert (reply.ended_by, reply.token_ids) == ("stop_string", (70, 71, 72))
        assert stop not in reply.text
    elif ending == "cancelled":
        sampled = iter([70, 71, 72, 73])
        monkeypatch.setattr("palmtop.runtime.decoding.generate.Sampler.draw", lambda *_: next(sampled))
        pieces = conversation.chat("one", options=options)
        next(pieces)
        conversation.cancel()
        assert finish(pieces).ended_by == "cancelled"
        monkeypatch.undo()
    elif ending == "closed":
        sampled = iter([70, 71, 72, 73])
        monkeypatch.setattr("palmtop.runtime.decoding.generate.Sampler.draw", lambda *_: next(sampled))
        pieces = conversation.chat("one", options=options)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        monkeypatch.undo()
        assert conversation.messages[-1]["role"] == "assistant"
    else:
        assert finish(conversation.chat("one", options=options)).ended_by == "max_tokens"
    for text in ("two", "three"):
        finish(conversation.chat(text, options=options))
    assert len(witness.seen) == 3
    assert_as_fresh(toy_session, conversation, witness)


def test_images_and_sounds_may_come_in_any_turn(toy_session: Session, encoders: FakeEncoders) -> None:
    conversation = toy_session.conversation()
    witness = Witness(conversation)
    finish(conversation.chat("hi", options=SHORT))
    image = finish(conversation.chat(with_image("what"), options=SHORT))
    assert (image.mode, image.adapters, image.usage.reprefilled) == ("image", {"vision": 1.0}, "adapters")
    text = finish(conversation.chat("and", options=SHORT))
    assert (text.mode, text.adapters, text.usage.reprefilled) == ("image", {"vision": 1.0}, None)
    second = finish(conversation.chat(with_image("now", seed=1), options=SHORT))
    assert second.usage.reprefilled is None
    assert second.usage.cached_tokens > text.usage.prompt_tokens
    assert encoders.calls == ["image", "image"]
    assert_as_fresh(toy_session, conversation, witness)


def test_an_image_that_joins_a_sound_has_the_sound_encoded_again(toy_session: Session, encoders: FakeEncoders) -> None:
    conversation = toy_session.conversation()
    witness = Witness(conversation)
    audio = finish(conversation.chat(with_audio("what"), options=SHORT))
    assert (audio.mode, audio.adapters) == ("audio", {"speech": 1.0})
    both = finish(conversation.chat(with_image("and"), options=SHORT))
    assert (both.mode, both.adapters, both.usage.reprefilled) == ("image+audio", {"vision": 1.0}, "adapters")
    assert encoders.calls == ["audio:speech", "audio:vision", "image"]
    assert_as_fresh(toy_session, conversation, witness)


def test_long_rope_in_the_prompt_while_decoding_and_in_a_later_turn(toy_session: Session) -> None:
    text = "a b c d e f g h " * 6
    short = toy_session.conversation()
    witness = Witness(short)
    first = finish(short.chat(text, options=GenerationOptions(max_tokens=60)))
    assert first.usage.prompt_tokens < ORIGINAL_CONTEXT < first.usage.prompt_tokens + 60
    assert first.usage.reprefilled == "rope"
    finish(short.chat("more", options=SHORT))

    later = toy_session.conversation()
    finish(later.chat(text, options=SHORT))
    assert finish(later.chat(text, options=SHORT)).usage.reprefilled == "rope"

    long = toy_session.conversation()
    assert finish(long.chat(text * 2, options=SHORT)).usage.reprefilled is None
    assert_as_fresh(toy_session, short, witness)


def test_decoding_across_the_boundary_gives_the_tokens_of_a_fresh_prefill(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    reply = finish(conversation.chat("a b c d e f g h " * 6, options=GenerationOptions(max_tokens=60)))
    prompt = conversation._spoken.answers[-1].prompt
    for count in range(ORIGINAL_CONTEXT - len(prompt) - 3, ORIGINAL_CONTEXT - len(prompt) + 4):
        ids = np.concatenate([prompt, np.array(reply.token_ids[:count], np.int32)])
        track = toy_session.conversation()._track
        track.prefill(TokenSequence(ids, np.zeros(len(ids), np.int64), ()), np.zeros(2, np.float32), lambda: False)
        scores = track.logits().copy()
        scores[[IMAGE, AUDIO]] = -np.inf
        assert int(scores.argmax()) == reply.token_ids[count]


def test_the_same_seed_gives_the_same_text_and_another_does_not(toy_session: Session) -> None:
    answers = [toy_session.answer(user("hi"), options=RANDOM).token_ids for _ in range(2)]
    assert answers[0] == answers[1]
    assert (
        toy_session.answer(user("hi"), options=GenerationOptions(max_tokens=12, temperature=3.0, seed=4)).token_ids
        != answers[0]
    )


def test_a_message_list_is_answered_whatever_came_before(toy_session: Session) -> None:
    alone = toy_session.answer(user("hi"), options=SHORT)
    toy_session.answer(user("something else entirely"), options=SHORT)
    again = toy_session.answer(user("hi"), options=SHORT)
    assert again.token_ids == alone.token_ids
    assert again.usage.cached_tokens > 0


def test_editing_a_turn_rewinds_to_it(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    finish(conversation.chat("first question", options=SHORT))
    finish(conversation.chat("second", options=SHORT))
    edited = [*conversation.messages[:2], {"role": "user", "content": "third"}]
    reply = finish(conversation.respond(edited, options=SHORT))
    assert reply.usage.cached_tokens > 20
    fresh = finish(toy_session.conversation().respond(edited, options=SHORT))
    assert fresh.usage.cached_tokens == 0


def test_the_users_adapters_change_the_answer_and_are_reported(toy_session: Session) -> None:
    base = toy_session.answer(user("hi"), options=SHORT)
    other = toy_session.answer(user("hi"), adapters={"speech": 1.0}, options=SHORT)
    assert other.adapters == {"speech": 1.0}
    assert other.usage.reprefilled == "adapters"
    assert other.token_ids != base.token_ids
    assert toy_session.answer(user("hi"), options=SHORT).token_ids == base.token_ids


def test_a_prompt_longer_than_the_context_is_refused_with_numbers(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    finish(conversation.chat("hi", options=SHORT))
    with pytest.raises(InputError, match=rf"the prompt has \d+ tokens .* context is {CONTEXT}"):
        finish(conversation.chat("long " * 300))
    assert len(conversation.messages) == 2
    assert finish(conversation.chat("still here", options=SHORT)).usage.cached_tokens > 0


def test_an_answer_ends_when_the_context_is_full(toy_session: Session) -> None:
    reply = toy_session.answer(user("x " * 110), options=GenerationOptions(max_tokens=200, stop=("\0\0",)))
    assert reply.ended_by in ("context_full", "eos")
    if reply.ended_by == "context_full":
        assert reply.usage.prompt_tokens + len(reply.token_ids) == CONTEXT + 1


def test_more_media_rows_than_places_are_refused(toy_bundle: Path, encoders: FakeEncoders) -> None:
    with Session(open_bundle(toy_bundle), SessionOptions(threads=1, media_rows=30), encoders=encoders) as session:
        conversation = session.conversation()
        assert finish(conversation.chat(with_image("one"), options=SHORT)).usage.media_rows == 27
        with pytest.raises(InputError, match="take 54 rows of features, this session has 30 places"):
            finish(conversation.chat(with_image("two", seed=1), options=SHORT))
        assert finish(conversation.chat("go on", options=SHORT)).text is not None


def test_arrays_shared_with_the_native_side_survive_garbage_collection(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    first = finish(conversation.chat(with_image("what"), options=SHORT))
    for _ in range(3):
        gc.collect()
        np.full(1 << 16, 7.0, np.float32)  # reuse what may have been freed
    conversation.reset()
    finish(conversation.chat("another", options=SHORT))
    conversation.reset()
    again = finish(conversation.chat(with_image("what"), options=SHORT))
    assert again.token_ids == first.token_ids


def test_cancelling_during_prefill_leaves_the_conversation_usable(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    appended = 0
    decoder = conversation._track._ready()
    append = decoder.append

    def cancelling(ids: NDArray[np.int32]) -> None:
        nonlocal appended
        append(ids)
        appended += len(ids)
        if appended == 32:
            conversation.cancel()

    decoder.append = cancelling  # type: ignore[method-assign]
    cancelled = finish(conversation.chat("x " * 50, options=SHORT))
    assert (cancelled.ended_by, cancelled.text, appended) == ("cancelled", "", 32)
    going_on = finish(conversation.respond(conversation.messages[:1], options=SHORT))
    assert going_on.usage.cached_tokens == 32
    fresh = finish(toy_session.conversation().respond(conversation.messages[:1], options=SHORT))
    assert going_on.token_ids == fresh.token_ids


def test_a_second_answer_inside_the_first_is_refused(toy_session: Session) -> None:
    pieces = toy_session.chat(user("hi"), options=SHORT)
    next(pieces)
    with pytest.raises(InputError, match="still answering"):
        toy_session.answer(user("hello"))
    finish(pieces)
    assert toy_session.answer(user("hello"), options=SHORT).ended_by == "max_tokens"


def test_threads_take_turns_and_never_mix(toy_session: Session) -> None:
    texts = [f"question number {i}" for i in range(4)]
    alone = {text: toy_session.answer(user(text), options=SHORT).token_ids for text in texts}
    found: dict[str, tuple[int, ...]] = {}

    def ask(text: str) -> None:
        for _ in range(5):
            found[text] = toy_session.answer(user(text), options=SHORT).token_ids

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == alone


def test_placeholder_ids_are_never_sampled(toy_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[[IMAGE, AUDIO]] = 100
    monkeypatch.setattr("palmtop.runtime.decoding.loop_decoder.LoopDecoder.logits", lambda _: logits)
    reply = toy_session.answer(user("hi"), options=GenerationOptions(max_tokens=50, temperature=1.0, seed=0))
    assert not {IMAGE, AUDIO} & set(reply.token_ids)


def test_placeholders_typed_by_a_user_are_text(toy_session: Session) -> None:
    reply = toy_session.answer(user("<|image_1|> <|endoftext10|>"), options=SHORT)
    assert (reply.mode, reply.usage.media_rows) == ("text", 0)


def test_pieces_join_to_the_whole_text(toy_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "héllo 🌍, 中文 e\u0301!"
    tokens = iter([*toy_session._processor.text.encode(text), END])
    monkeypatch.setattr("palmtop.runtime.decoding.generate.Sampler.draw", lambda *_: next(tokens))
    pieces = list(toy_session.chat(user("hi")))
    reply = pieces[-1].reply
    assert reply is not None
    assert "".join(piece.text for piece in pieces) == reply.text == text
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert len(pieces) > 10


def test_a_session_that_does_not_fit_is_refused_before_loading(toy_bundle: Path) -> None:
    with pytest.raises(MemoryPlanError, match=r"there are 1\.0 MB; no context would fit"):
        Session(open_bundle(toy_bundle), SessionOptions(memory_limit=1_000_000))


def test_another_conversation_must_fit_too(toy_bundle: Path, encoders: FakeEncoders) -> None:
    with Session(open_bundle(toy_bundle), SessionOptions(threads=1), encoders=encoders) as probe:
        limit = probe.plan.total + probe.plan.conversation // 2
    options = SessionOptions(threads=1, memory_limit=limit)
    with Session(open_bundle(toy_bundle), options, encoders=encoders) as session:
        first = session.conversation()
        finish(first.chat("hi", options=SHORT))
        with pytest.raises(MemoryPlanError, match="another conversation of 256 tokens"):
            finish(session.conversation().chat("hi", options=SHORT))
        first.close()
        del first
        finish(session.conversation().chat("hi", options=SHORT))


def test_a_context_beyond_the_bundles_is_refused(toy_bundle: Path) -> None:
    with pytest.raises(InputError, match="found 300, this bundle serves at most 256"):
        Session(open_bundle(toy_bundle), SessionOptions(context=300))


def test_a_closed_session_says_so(toy_bundle: Path, encoders: FakeEncoders) -> None:
    with Session(open_bundle(toy_bundle), SessionOptions(threads=1), encoders=encoders) as session:
        begun = session.conversation()
        finish(begun.chat("hi", options=SHORT))
    with pytest.raises(InputError, match="session is closed"):
        session.answer(user("hi"))
    with pytest.raises(InputError, match="session of this conversation is closed"):
        finish(begun.chat("more"))
