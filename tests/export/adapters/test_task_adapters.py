"""The packaged task adapters: each right on its own task, wrong on the others'; a request is answered by its route."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import palmtop
from palmtop.export.adapters.install import add_adapter, set_route
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.chat.routing import AdapterRequest, Wanted
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference import adapters_path
from palmtop.runtime.reference.text_tasks import INSTRUCTION
from palmtop.runtime.session import Session
from tests.reference.task_adapters import TASKS, draw

ITEMS = 10
OPTIONS = GenerationOptions(max_tokens=16)
MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def session(int4_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    bundle = Path(shutil.copytree(int4_bundle, tmp_path_factory.mktemp("tasks") / "bundle"))
    for name in TASKS:
        add_adapter(bundle, adapters_path() / name)
    set_route(bundle, "sorting", Route(adapters={"sort": 1.0}, audio_projector="speech"))
    with palmtop.load(bundle, context=256, threads=1) as session:
        yield session


def right(session: Session, task: str, wanted: Wanted) -> float:
    """Share of held-out items answered exactly."""
    count = 0
    for number in range(ITEMS):
        question, answer = draw(task, np.random.default_rng(10**6 + number), held_out=True)
        messages = [{"role": "user", "content": f"{question} {INSTRUCTION}"}]
        count += session.answer(messages, adapters=wanted, options=OPTIONS).text == answer
    return count / ITEMS


@pytest.mark.parametrize("task", list(TASKS))
def test_each_is_right_on_its_task_alone(session: Session, task: str) -> None:
    assert right(session, task, {task: 1.0}) >= 0.7
    for other in TASKS:
        if other != task:
            assert right(session, other, {task: 1.0}) <= 0.3
    assert right(session, task, {}) <= 0.3


def test_a_task_is_chosen_by_its_route(session: Session) -> None:
    assert right(session, "sort", "sorting") >= 0.7
    question, _ = draw("sort", np.random.default_rng(10**6), held_out=True)
    messages = [{"role": "user", "content": f"{question} {INSTRUCTION}"}]
    reply = session.answer(messages, adapters=AdapterRequest({"next": 0.25}, "sorting"), options=OPTIONS)
    assert reply.adapters == {"sort": 1.0, "next": 0.25}
    assert session.answer(messages, options=OPTIONS).usage.reprefilled == "adapters"


def test_the_packaged_adapters_are_small() -> None:
    for task in TASKS:
        assert sum(p.stat().st_size for p in (adapters_path() / task).iterdir()) < MAX_BYTES
