"""Which KV cache answers a request: what one of them holds is not read again, within the memory there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palmtop.runtime.serve.slots import Beginning, Slots, beginning_of
from palmtop.runtime.session import load_session
from palmtop.runtime.session_options import SessionOptions
from tests.runtime.serve.live_server import TEXT, asked, image_part, serving

ONE, OTHER = "digits: two eight nine. " * 40, "What is it? Answer only. " * 40


class Cache:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def holds(*parts: str, under: str = "") -> Beginning:
    return Beginning(under, tuple((part.encode(), 10) for part in parts))


def test_a_request_goes_to_the_cache_that_shares_most_with_it() -> None:
    slots: Slots[Cache] = Slots(3)
    first = slots.take(holds("a", "b"), Cache, may_grow=True).cache
    second = slots.take(holds("c", "d"), Cache, may_grow=True).cache
    assert first is not second and len(slots) == 2
    assert slots.take(holds("a", "b", "e"), Cache, may_grow=True).cache is first
    assert slots.take(holds("c", "d", "e", "f"), Cache, may_grow=True).cache is second
    assert slots.take(holds("a", "b", under="vision"), Cache, may_grow=True).cache not in (first, second)


def test_the_longest_unused_cache_gives_way() -> None:
    slots: Slots[Cache] = Slots(2)
    first = slots.take(holds("a"), Cache, may_grow=True).cache
    second = slots.take(holds("b"), Cache, may_grow=True).cache
    slots.take(holds("a", "c"), Cache, may_grow=True)
    assert slots.take(holds("d"), Cache, may_grow=True).cache is second
    assert slots.take(holds("e"), Cache, may_grow=False).cache is first
    assert len(slots) == 2


def test_a_cache_without_memory_is_closed_and_no_more_are_opened() -> None:
    slots: Slots[Cache] = Slots(3)
    first = slots.take(holds("a"), Cache, may_grow=True).cache
    second = slots.take(holds("b"), Cache, may_grow=True).cache
    assert slots.give_up(second) and second.is_closed and not first.is_closed
    assert slots.take(holds("b"), Cache, may_grow=True).cache is first
    assert not slots.give_up(first) and not first.is_closed


def test_media_tools_and_adapters_are_part_of_a_beginning() -> None:
    def of(data: bytes, tools: Any = (), choice: object = None) -> Beginning:
        return beginning_of([{"role": "user", "content": [{"type": "image", "image": data}]}], tools, choice)

    assert of(b"picture").shared_with(of(b"picture")) == of(b"picture").size
    for other in (of(b"another"), of(b"picture", [{"name": "f"}]), of(b"picture", choice="speech")):
        assert other.shared_with(of(b"picture")) <= len("role'user'")


def test_a_picture_is_shared_whatever_is_asked_about_it() -> None:
    picture = {"type": "image", "image": b"x" * 1000}
    first, second = (
        beginning_of([{"role": "user", "content": [picture, {"type": "text", "text": text}]}], (), None)
        for text in ("What is it?", "Who is it?")
    )
    assert first.shared_with(second) > 1000


@pytest.mark.parametrize("conversations", [1, 4])
def test_dialogues_in_turn_are_not_read_again(int4_bundle: Path, conversations: int) -> None:
    with serving(int4_bundle, conversations=conversations) as running, running.client() as client:

        def cached(text: str, *parts: Any) -> float:
            completion = client.chat.completions.create(model="int4", messages=asked(*parts, text=text), max_tokens=2)
            usage: Any = completion.usage
            return float(usage.prompt_tokens_details.cached_tokens / usage.prompt_tokens)

        questions: list[tuple[Any, ...]] = [(ONE,), (OTHER,), (ONE, image_part())]
        assert max(cached(*question) for question in questions) < 0.2
        again = [cached(*question) for question in questions]
        assert min(again) > 0.9 if conversations == 4 else max(again) < 0.2


def test_caches_stay_within_the_limit(int4_bundle: Path) -> None:
    with load_session(int4_bundle, SessionOptions(threads=1)) as session:
        plan = session.plan
    loading = SessionOptions(threads=1, memory_limit=plan.total + plan.conversation + 1)
    with serving(int4_bundle, loading=loading) as running, running.client() as client:
        for text in (ONE, OTHER, "third " * 100, ONE):
            client.chat.completions.create(model="int4", messages=asked(text=text), max_tokens=2)
            client.chat.completions.create(model="int4", messages=asked(image_part(), text=text), max_tokens=2)
        assert running.server is not None
        assert len(running.server.models.models["int4"].slots) == 2


def test_a_cache_that_the_machine_has_no_memory_for_is_done_without(
    int4_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(int4_bundle) as running, running.client() as client:
        client.chat.completions.create(model="int4", messages=asked(text=OTHER), max_tokens=2)
        monkeypatch.setattr("palmtop.runtime.session.available_memory", lambda: 1000)
        completion = client.chat.completions.create(model="int4", messages=TEXT)
        assert completion.choices[0].message.content == "289"
        assert running.server is not None
        assert len(running.server.models.models["int4"].slots) == 1
