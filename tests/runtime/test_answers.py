"""Ending, retrying, awaiting answers, and prompts that outgrow the context; on the toy bundle."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import Session, SessionOptions
from tests.runtime.toy import CONTEXT, FakeEncoders

SHORT = GenerationOptions(max_tokens=5)
RANDOM = GenerationOptions(max_tokens=12, temperature=3.0, seed=3)


def roles(conversation: Conversation) -> list[str]:
    return [str(message["role"]) for message in conversation.messages]


def slow_down(conversation: Conversation, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every step of the decoder takes this long and leaves Python's lock alone meanwhile."""
    decoder: Any = conversation._track._ready()
    append = decoder.append

    def slow(ids: NDArray[np.int32]) -> None:
        time.sleep(seconds)
        append(ids)

    monkeypatch.setattr(decoder, "append", slow)


def test_retry_answers_the_last_question_again_and_reads_one_token(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    first = conversation.chat("one", options=RANDOM).result()
    again = conversation.retry(options=RANDOM).result()
    other = conversation.retry(options=GenerationOptions(max_tokens=12, temperature=3.0, seed=9)).result()
    assert again.token_ids == first.token_ids != other.token_ids
    assert again.usage.prompt_tokens - again.usage.cached_tokens == 1
    assert roles(conversation) == ["user", "assistant"]
    assert conversation.messages[-1]["content"] == other.text


def test_rewind_takes_turns_back_and_keeps_the_cache(toy_session: Session) -> None:
    conversation = toy_session.conversation(system="be brief")
    conversation.chat("first question", options=SHORT).result()
    before = list(conversation.messages)
    conversation.chat("second", options=SHORT).result()
    conversation.chat("third", options=SHORT).result()
    conversation.rewind(2)
    assert conversation.messages == before
    edited = conversation.chat("edited", options=SHORT).result()
    assert edited.usage.cached_tokens > 30
    fresh = toy_session.conversation().respond(conversation.messages[:-1], options=SHORT).result()
    assert fresh.usage.cached_tokens == 0
    with pytest.raises(InputError, match="holds no question"):
        conversation.rewind(3)
    assert roles(conversation) == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("turns", [0, -1, True, "1"])
def test_rewinding_by_nonsense_is_refused(toy_session: Session, turns: Any) -> None:
    with pytest.raises(InputError, match="expected a number from 1 on"):
        toy_session.conversation().rewind(turns)


def test_rewinding_under_an_answer_is_refused(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    answer = conversation.chat("one", options=RANDOM)
    next(answer)
    with pytest.raises(InputError, match="an answer is being given"):
        conversation.rewind()
    answer.close()
    conversation.rewind()
    assert conversation.messages == []


def test_a_failed_retry_leaves_the_dialogue_as_it_was(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    with pytest.raises(InputError, match="holds no question"):
        conversation.retry().result()
    conversation.chat("one", options=SHORT).result()
    before = list(conversation.messages)
    with pytest.raises(InputError, match="adapter 'smell'"):
        conversation.retry(adapters={"smell": 1.0}).result()
    assert conversation.messages == before


def test_a_timeout_ends_the_answer_where_it_is(toy_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = toy_session.conversation()
    slow_down(conversation, monkeypatch, 0.02)
    reply = conversation.chat("one", options=GenerationOptions(max_tokens=200, timeout_s=0.3)).result()
    assert reply.ended_by == "timeout"
    assert 0 < reply.usage.completion_tokens < 30
    monkeypatch.undo()
    assert conversation.chat("two", options=SHORT).result().usage.cached_tokens > 0


def test_an_answer_cancelled_before_it_began_reads_nothing(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    answer = conversation.chat("one", options=SHORT)
    answer.cancel()
    reply = answer.result()
    assert (reply.ended_by, reply.text, len(conversation._track.ids)) == ("cancelled", "", 0)


def test_cancelling_at_200_random_moments_leaves_the_next_answer_right(toy_session: Session) -> None:
    """Prompt and answer both: the moments are spread over what one answer takes."""
    conversation = toy_session.conversation()
    question = [{"role": "user", "content": "x " * 60}]
    started = time.perf_counter()
    expected = conversation.respond(question, options=RANDOM).result().token_ids
    takes = time.perf_counter() - started
    random = np.random.default_rng(0)
    reasons = []
    for moment in random.uniform(0, 1.2 * takes, 200):
        conversation._track.close() if random.random() < 0.5 else None  # half of them from an empty cache
        answer = conversation.respond(question, options=RANDOM)
        timer = threading.Timer(moment, answer.cancel)
        timer.start()
        reply = answer.result()
        timer.cancel()
        timer.join()
        reasons.append(reply.ended_by)
        assert reply.token_ids == expected[: len(reply.token_ids)]
        if len(reasons) % 20 == 0:
            assert conversation.respond(question, options=RANDOM).result().token_ids == expected
    assert reasons.count("cancelled") > 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("palmtop")]


def test_an_answer_stopped_while_it_waits_lets_its_thread_go(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    first = conversation.chat("one", options=SHORT)
    next(first)
    second = conversation.chat("two", options=SHORT)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            second.result()
        except InputError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    second.cancel()
    thread.join(10)
    assert [str(error)[:22] for error in errors] == ["the answer was stopped"]
    first.close()
    assert roles(conversation) == ["user", "assistant"]


def test_ctrl_c_in_the_middle_takes_the_turn_back(toy_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = toy_session.conversation()
    expected = conversation.chat("one", options=RANDOM).result()
    decoder: Any = conversation._track._ready()
    append = decoder.append

    def interrupted(ids: NDArray[np.int32]) -> None:
        append(ids)
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder, "append", interrupted)
    before = list(conversation.messages)
    with pytest.raises(KeyboardInterrupt):
        conversation.chat("two", options=RANDOM).result()
    assert conversation.messages == before
    monkeypatch.undo()
    conversation.rewind()
    assert conversation.chat("one", options=RANDOM).result().token_ids == expected.token_ids


def test_async_pieces_equal_the_others_and_the_loop_stays_free(
    toy_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = toy_session.conversation()
    expected = conversation.respond([{"role": "user", "content": "one"}], options=RANDOM).result()
    slow_down(conversation, monkeypatch, 0.02)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async def ask() -> Any:
        ticking = asyncio.create_task(tick())
        answer = conversation.chat("one", options=RANDOM)
        text = "".join([piece.text async for piece in answer])
        ticking.cancel()
        assert answer.reply is not None
        assert answer.reply.text == text
        return answer.reply

    assert asyncio.run(ask()).token_ids == expected.token_ids
    assert ticks > 5 * len(expected.token_ids)  # about 20 for every step


def test_two_tasks_of_one_conversation_take_turns(toy_session: Session) -> None:
    conversation = toy_session.conversation()

    async def ask(text: str) -> None:
        async for _ in conversation.chat(text, options=SHORT):
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(*(ask(f"question {i}") for i in range(4)))

    asyncio.run(both())
    assert roles(conversation) == ["user", "assistant"] * 4


def test_one_task_cannot_wait_for_itself(toy_session: Session) -> None:
    async def nested() -> None:
        conversation = toy_session.conversation()
        async with conversation.chat("one", options=RANDOM) as first:
            await anext(first)
            with pytest.raises(InputError, match="still answering"):
                await anext(conversation.chat("two"))
            with pytest.raises(InputError, match="still answering"):
                conversation.chat("two").result()
        assert roles(conversation) == ["user", "assistant"]

    asyncio.run(nested())


def test_a_cancelled_task_frees_the_conversation(toy_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = toy_session.conversation()
    slow_down(conversation, monkeypatch, 0.05)

    async def give_up() -> None:
        answer = conversation.chat("one " * 20, options=GenerationOptions(max_tokens=100))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(answer), 0.1)
        async for _ in conversation.chat("two", options=SHORT):
            pass

    asyncio.run(give_up())
    assert roles(conversation)[-2:] == ["user", "assistant"]
    assert conversation.messages[-2]["content"] == "two"


def test_a_long_dialogue_is_refused_or_trimmed_by_whole_questions(toy_session: Session) -> None:
    conversation = toy_session.conversation(system="be brief")
    trim = GenerationOptions(max_tokens=5, on_overflow="trim")
    counts = []
    for number in range(12):
        reply = conversation.chat(f"question number {number} " + "x" * 30, options=trim).result()
        counts.append(reply.usage.trimmed_messages)
        assert reply.usage.prompt_tokens + 5 <= CONTEXT
        assert roles(conversation)[:2] == ["system", "user"]
        assert conversation.messages[-2]["content"].startswith(f"question number {number}")
    assert counts[0] == 0
    assert set(counts) == {0, 2} or set(counts) == {0, 2, 4}
    before = list(conversation.messages)
    with pytest.raises(InputError, match=r"on_overflow='trim' does"):
        conversation.chat("y" * 120, options=SHORT).result()
    with pytest.raises(InputError, match="context is 256"):
        conversation.chat("y" * 300, options=trim).result()
    assert conversation.messages == before


def test_a_trimmed_picture_takes_its_adapter_with_it(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    trim = GenerationOptions(max_tokens=5, on_overflow="trim")
    picture = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "x" * 100}]
    assert conversation.chat(content, options=trim).result().mode == "image"
    reply = conversation.chat("y" * 150, options=trim).result()
    assert (reply.mode, reply.adapters, reply.usage.trimmed_messages) == ("text", {}, 2)
    assert reply.usage.reprefilled == "adapters"


def test_the_cost_of_an_answer_is_told(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    picture = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "what"}]
    usage = conversation.chat(content, options=SHORT).result().usage
    assert usage.completion_tokens == 5
    assert 0 < usage.encode_s < usage.ttft_s
    assert usage.tokens_per_s > 0
    assert usage.peak_rss_bytes is None or usage.peak_rss_bytes > 1 << 20
    assert conversation.chat("and", options=SHORT).result().usage.encode_s < usage.encode_s


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": "5"}, "option max_tokens: found '5'"),
        ({"max_tokens": True}, "option max_tokens: found True"),
        ({"adapters": ["vision"]}, "adapters: found list"),
        ({"adapters": {"vision": "1"}}, "adapter 'vision' has weight '1'"),
        ({"adapters": {1: 1.0}}, "adapters: found the name 1"),
        ({"options": {"max_tokens": 5}}, "options: found dict"),
    ],
)
def test_arguments_of_wrong_types_are_refused_in_a_sentence(
    toy_session: Session, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        toy_session.answer([{"role": "user", "content": "hi"}], **arguments)


@pytest.mark.parametrize(
    "option",
    [{"context": "5"}, {"threads": 0.5}, {"keep_encoders": 1}, {"provider": None}, {"memory_limit": "1GB"}],
)
def test_loading_options_of_wrong_types_are_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"option {next(iter(option))}: found"):
        SessionOptions(**option)


def test_a_system_message_must_be_text(toy_session: Session) -> None:
    with pytest.raises(InputError, match="system: found a number, expected text"):
        toy_session.conversation(system=5)  # type: ignore[arg-type]


def test_conversations_of_one_session_in_several_threads_never_mix(toy_bundle: Path, encoders: FakeEncoders) -> None:
    with Session(open_bundle(toy_bundle), SessionOptions(threads=1, prefill_chunk=16), encoders=encoders) as session:
        texts = [f"question number {i} " + "z" * 7 * i for i in range(4)]
        alone = [session.conversation().chat(text, options=RANDOM).result().token_ids for text in texts]
        found: list[list[tuple[int, ...]]] = [[] for _ in texts]
        conversations = [session.conversation() for _ in range(2)]

        def ask(number: int) -> None:
            for _ in range(6):
                message = [{"role": "user", "content": texts[number]}]
                found[number].append(conversations[number % 2].respond(message, options=RANDOM).result().token_ids)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(texts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [[ids] * 6 for ids in alone]
