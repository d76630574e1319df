"""Two threads in one conversation, and what a refused turn leaves behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from palmtop.errors import InputError
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.session import Session

SHORT = GenerationOptions(max_tokens=3)


def test_a_waiting_thread_speaks_after_the_answer(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    first = conversation.chat("one", options=SHORT)
    next(first)
    second = threading.Thread(target=lambda: list(conversation.chat("two", options=SHORT)))
    second.start()
    second.join(0.2)
    waiting = [m["role"] for m in conversation.messages]
    list(first)
    second.join()
    assert waiting == ["user"]
    assert [m["role"] for m in conversation.messages] == ["user", "assistant", "user", "assistant"]


def test_a_failing_turn_takes_back_only_its_own_message(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    first = conversation.chat("one", options=SHORT)
    next(first)

    def fail() -> None:
        with pytest.raises(InputError):
            list(conversation.chat("x" * 5000, options=SHORT))

    second = threading.Thread(target=fail)
    second.start()
    list(first)
    second.join()
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"]


def test_a_refused_prompt_keeps_no_pixels(toy_session: Session) -> None:
    conversation = toy_session.conversation()
    image = {"type": "image", "image": np.zeros((60, 60, 3), np.uint8)}
    with pytest.raises(InputError):
        list(conversation.chat([image, {"type": "text", "text": "x" * 5000}], options=SHORT))
    assert not conversation._media._tiles
    assert conversation.messages == []
