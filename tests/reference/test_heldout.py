from __future__ import annotations

import numpy as np
import pytest

from palmtop.runtime.reference.heldout import TASKS, clips, glyphs, held_out_items
from palmtop.runtime.reference.text_tasks import QUESTIONS, answer_question, is_held_out


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_items(task: str) -> None:
    first, again = (list(held_out_items(task, 5, seed=3)) for _ in range(2))  # type: ignore[arg-type]
    other = list(held_out_items(task, 5, seed=4))  # type: ignore[arg-type]
    assert [item.expected for item in first] == [item.expected for item in again]
    assert [item.expected for item in first] != [item.expected for item in other]
    for one, two in zip(first, again, strict=True):
        for left, right in zip(one.messages[0]["content"], two.messages[0]["content"], strict=True):
            assert left["type"] == right["type"]
            if left["type"] == "image":
                assert np.array_equal(left["image"], right["image"])
            elif left["type"] == "audio":
                assert np.array_equal(left["audio"][0], right["audio"][0])


def test_text_tasks_are_held_out_and_differ() -> None:
    items = list(held_out_items("text", 200, seed=0))
    texts = [item.messages[0]["content"][0]["text"] for item in items]
    assert len(set(texts)) == 200
    assert all(is_held_out(text.removesuffix(" What is it?")) for text in texts)


def test_every_mode_ends_in_the_same_instruction() -> None:
    for task in TASKS:
        for item in held_out_items(task, 3, seed=1):
            assert item.messages[0]["content"][-1]["text"].endswith("What is it?")


def test_the_packaged_material_is_large_enough() -> None:
    assert len(clips()) >= 1000
    assert sum(clip.synthesizer == "flite" for clip in clips()) >= 300
    assert sum(len(sprites) for sprites in glyphs()["handwritten"]) == 360


def test_questions_are_answered_from_the_row() -> None:
    assert [answer_question(word, "472") for word in QUESTIONS] == ["4", "2", "7", "2", "472"]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown task 'video'"):
        next(held_out_items("video", 1, seed=0))  # type: ignore[arg-type]
