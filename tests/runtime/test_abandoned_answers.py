"""Answers that nobody asks further pieces of: each way to leave one, and the conversation is free for the next."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from palmtop.errors import InputError
from palmtop.runtime.chat.stream import Answer
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.decoding.sampling import Sampler
from palmtop.runtime.session import Session

LONG = GenerationOptions(max_tokens=60, temperature=1.0, seed=1)
SHORT = GenerationOptions(max_tokens=3)
QUESTION = [{"role": "user", "content": "one"}]


class UnwantedError(Exception):
    pass


def break_out(session: Session) -> None:
    for _ in session.chat(QUESTION, options=LONG):
        break


def fail_in_the_body(session: Session) -> None:
    with pytest.raises(UnwantedError):
        for _ in session.chat(QUESTION, options=LONG):
            raise UnwantedError


def never_iterate(session: Session) -> None:
    session.chat(QUESTION, options=LONG)


def stop_at_the_reply(session: Session) -> None:
    answer = session.chat(QUESTION, options=SHORT)
    while next(answer).reply is None:
        pass
    KEPT.append(answer)  # and nobody asks for what comes after the last piece


def cancel_and_keep(session: Session) -> None:
    answer = session.chat(QUESTION, options=LONG)
    next(answer)
    session.cancel()
    KEPT.append(answer)


def run_out_of_time_and_keep(session: Session) -> None:
    answer = session.chat(QUESTION, options=GenerationOptions(max_tokens=60, timeout_s=0.2))
    next(answer)
    threading.Event().wait(0.25)
    KEPT.append(answer)


def leave_a_reference_cycle(session: Session) -> None:
    answer: Any = session.chat(QUESTION, options=LONG)
    next(answer)
    answer.itself = answer
    del answer
    gc.collect()


def drop_in_another_thread(session: Session) -> None:
    answers = [session.chat(QUESTION, options=LONG)]
    next(answers[0])
    in_a_thread(answers.clear)


def break_out_of_async_for(session: Session) -> None:
    async def ask() -> None:
        async for _ in session.chat(QUESTION, options=LONG):
            break

    asyncio.run(ask())


def cancel_the_task(session: Session) -> None:
    async def ask() -> None:
        async for _ in session.chat(QUESTION, options=LONG):
            await asyncio.sleep(0.02)

    async def cancel() -> None:
        task = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())


def time_the_task_out(session: Session) -> None:
    async def ask() -> None:
        async for _ in session.chat(QUESTION, options=LONG):
            await asyncio.sleep(10)

    async def limit() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ask(), 0.1)

    asyncio.run(limit())


WAYS: list[Callable[[Session], None]] = [
    break_out,
    fail_in_the_body,
    never_iterate,
    stop_at_the_reply,
    cancel_and_keep,
    run_out_of_time_and_keep,
    leave_a_reference_cycle,
    drop_in_another_thread,
    break_out_of_async_for,
    cancel_the_task,
    time_the_task_out,
]
KEPT: list[Answer] = []


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("way", WAYS)
def test_the_same_thread_is_answered_next(way: Callable[[Session], None], toy_session: Session) -> None:
    expected = toy_session.answer(QUESTION, options=SHORT).text
    way(toy_session)
    assert toy_session.answer(QUESTION, options=SHORT).text == expected
    KEPT.clear()


@pytest.mark.parametrize("way", WAYS)
def test_another_thread_is_answered_next(way: Callable[[Session], None], toy_session: Session) -> None:
    way(toy_session)
    texts: list[str] = []
    in_a_thread(lambda: texts.append(toy_session.answer(QUESTION, options=SHORT).text))
    KEPT.clear()
    assert texts == [toy_session.answer(QUESTION, options=SHORT).text]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_lives_on_after_one_disconnect(way: Callable[[Session], None], toy_session: Session) -> None:
    in_a_thread(lambda: way(toy_session))

    async def serve() -> list[str]:
        async def ask() -> str:
            return "".join([piece.text async for piece in toy_session.chat(QUESTION, options=SHORT)])

        return await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(3))), 20)

    texts = asyncio.run(serve())
    KEPT.clear()
    assert texts == [toy_session.answer(QUESTION, options=SHORT).text] * 3


def test_a_dropped_answer_leaves_what_it_said_in_the_dialogue(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    for piece in conversation.chat("one", options=LONG):
        said = piece.text
        break
    assert conversation.messages[1:] == [{"role": "assistant", "content": said}]
    conversation.rewind()
    assert conversation.messages == []


def test_a_cancelled_answer_still_gives_its_last_piece(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    answer = conversation.chat("one", options=LONG)
    first = next(answer).text
    conversation.cancel()
    assert conversation.chat("two", options=SHORT).result().ended_by == "max_tokens"
    reply = answer.result()
    assert (reply.ended_by, reply.text[: len(first)]) == ("cancelled", first)


def test_an_answer_that_is_still_wanted_is_not_ended_by_the_next(toy_session: Session) -> None:
    answer = toy_session.chat(QUESTION, options=LONG)
    next(answer)
    with pytest.raises(InputError, match="finish, cancel or close"):
        toy_session.answer(QUESTION)
    assert answer.result().ended_by in ("eos", "max_tokens")


def test_no_thread_stays_behind_a_dropped_answer(toy_session: Session) -> None:
    for way in WAYS:
        way(toy_session)
        KEPT.clear()
    gc.collect()
    waiting = [thread for thread in threading.enumerate() if thread.name.startswith("palmtop-answer")]
    for thread in waiting:
        thread.join(5)
    assert not [thread for thread in waiting if thread.is_alive()]


def test_a_question_waits_for_a_thread_that_is_ending_a_cancelled_answer(
    toy_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that computed the next piece is still inside native code when its task has been cancelled."""
    expected = toy_session.answer(QUESTION, options=SHORT).text
    draw, entered, go_on = Sampler.draw, threading.Event(), threading.Event()

    def slow(self: Sampler, *arguments: Any) -> int:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            go_on.wait(10)
        return draw(self, *arguments)

    async def cancel() -> None:
        task = asyncio.create_task(anext(aiter(session_answer)))
        while not entered.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr("palmtop.runtime.decoding.generate.Sampler.draw", slow)
    session_answer = toy_session.chat(QUESTION, options=LONG)
    threading.Timer(1.0, go_on.set).start()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(cancel())
    assert toy_session.answer(QUESTION, options=SHORT).text == expected
    loop.close()
