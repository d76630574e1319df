"""The phone's own x86_64 libraries answer on a desktop Java machine as the Python runtime does.

At accuracy_level 0 the kernels of all versions agree, so tokens are equal. At 4 (what users have) onnxruntime 1.29 and
that of the desktop round otherwise, and by processor: teacher-forced logits lie within 2% of their range, and of fifty
questions at most one more is right on one side (AVX2: none; AVX512-VNNI: one about an image with a voice).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import palmtop
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.decoding.cancellation import Cancellation
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import TASKS, Item, Task, held_out_items
from palmtop.runtime.session import Session
from tests.android.jvm import Core
from tests.android.phone_libraries import PhoneLibraries

pytestmark = pytest.mark.android
ITEMS = 50
CONTEXT = 1024
MAX_TOKENS = 24
WRONG: dict[Task, dict[str, float]] = {
    "image": {"speech": 1.0},
    "audio": {"vision": 1.0},
    "image+audio": {"speech": 1.0},
}
"""The other mode's adapter."""


@dataclass(frozen=True)
class Both:
    """Python's session and the phone's core on one bundle, and what Python answered so far."""

    session: Session
    core: Core
    known: dict[tuple[Task, int], Reply]

    def python(self, task: Task, number: int, item: Item) -> Reply:
        if (task, number) not in self.known:
            options = GenerationOptions(max_tokens=MAX_TOKENS)
            self.known[task, number] = self.session.answer(item.messages, options=options)
        return self.known[task, number]

    def phone(self, item: Item, **options: Any) -> dict[str, Any]:
        return self.core.respond(item.messages, max_tokens=MAX_TOKENS, **options)


@pytest.fixture(scope="module")
def exact_bundle(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model as users get it, but for the accuracy level."""
    return export_model(reference_checkpoint, tmp_path_factory.mktemp("bundles") / "exact", Recipe(accuracy_level=0))


@pytest.fixture(scope="module")
def exact(exact_bundle: Path, phone_libraries: PhoneLibraries, phone: Core) -> Iterator[Both]:
    yield from both(exact_bundle, phone)


def both(bundle: Path, core: Core) -> Iterator[Both]:
    with palmtop.load(bundle, threads=1, context=CONTEXT, keep_encoders=True) as session:
        core.ask("load", folder=str(bundle), context=CONTEXT)
        yield Both(session, core, {})


@pytest.mark.parametrize("task", TASKS)
def test_tokens_are_those_of_the_python_runtime(exact: Both, task: Task) -> None:
    for number, item in enumerate(held_out_items(task, ITEMS, 0)):
        ours, theirs = exact.phone(item), exact.python(task, number, item)
        assert ours["ids"] == list(theirs.token_ids), (task, number)
        assert (ours["text"], ours["finish_reason"]) == (theirs.text, theirs.ended_by)
        assert (ours["mode"], ours["adapters"]) == (theirs.mode, theirs.adapters)
        assert (ours["prompt_tokens"], ours["media_rows"]) == (theirs.usage.prompt_tokens, theirs.usage.media_rows)
        assert "".join(ours["pieces"]) == ours["text"]


@pytest.mark.parametrize("task", ["image", "audio", "image+audio"])
def test_the_wrong_adapter_answers_wrongly(exact: Both, task: Task) -> None:
    """So the right answers above are the adapter's, and its gate is what the phone sets."""
    right = wrong = 0
    for number, item in enumerate(held_out_items(task, 20, 0)):
        right += exact.python(task, number, item).text.strip() == item.expected
        answer = exact.phone(item, adapters=WRONG[task])
        assert answer["adapters"] == WRONG[task]
        wrong += answer["text"].strip() == item.expected
    assert right >= 14
    assert wrong <= right // 2


@pytest.fixture(scope="module")
def usual(int4_bundle: Path, exact: Both, phone: Core) -> Iterator[Both]:
    """After the tests of ``exact``: one engine is loaded at a time."""
    yield from both(int4_bundle, phone)


@pytest.mark.parametrize("task", TASKS)
def test_at_accuracy_level_4_as_many_answers_are_right(usual: Both, task: Task) -> None:
    right = {"phone": 0, "python": 0}
    for number, item in enumerate(held_out_items(task, ITEMS, 0)):
        right["phone"] += usual.phone(item)["text"].strip() == item.expected
        right["python"] += usual.python(task, number, item).text.strip() == item.expected
    print(f"{task}: right of {ITEMS}: {right}")
    assert abs(right["phone"] - right["python"]) <= 1


@pytest.mark.parametrize("task", TASKS)
def test_at_accuracy_level_4_logits_are_near(usual: Both, task: Task) -> None:
    worst = 0.0
    for number, item in enumerate(held_out_items(task, 6, 1)):
        forced = [*usual.python(task, -1 - number, item).token_ids, 0]
        out = usual.core.file()
        usual.core.ask("logits", messages=usual.core.messages(item.messages), forced=forced, out=str(out))
        phone = np.fromfile(out, np.float32).reshape(len(forced), -1)
        python = teacher_forced(usual.session, item, forced)
        worst = max(worst, float((np.abs(phone - python).max(1) / np.ptp(python, axis=1)).max()))
    print(f"{task}: logits within {100 * worst:.2f}% of their range")
    assert worst <= 0.02


@pytest.fixture(scope="module")
def speculating(
    reference_checkpoint: Path, usual: Both, phone: Core, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    """After the tests of ``usual``: a bundle whose head gives logits of several positions."""
    recipe = Recipe(accuracy_level=0, draft_rows=8)
    yield from both(export_model(reference_checkpoint, tmp_path_factory.mktemp("bundles") / "rows", recipe), phone)


@pytest.mark.parametrize("task", TASKS)
def test_a_bundle_for_speculation_answers_on_the_phone_without_guesses(speculating: Both, task: Task) -> None:
    for number, item in enumerate(held_out_items(task, 6, 0)):
        assert speculating.phone(item)["ids"] == list(speculating.python(task, number, item).token_ids)


def teacher_forced(session: Session, item: Item, forced: list[int]) -> NDArray[np.float32]:
    """Python's logits after the prompt and after each forced token but the last."""
    conversation = session.conversation()
    question = conversation._reader.read(item.messages, None, GenerationOptions())
    conversation._talk._prefill(question, Cancellation())
    rows = []
    for token in forced:
        rows.append(conversation._track.logits().copy())
        if len(rows) < len(forced):
            conversation._track.step(token, lambda: False)
    conversation.close()
    return np.array(rows)
