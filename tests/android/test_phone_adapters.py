"""Adapters that a user added, on the phone's libraries: loaded from their own files, chosen by name and by route."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palmtop.export.adapters.install import add_adapter, set_route
from palmtop.runtime.manifest import Route
from palmtop.runtime.reference import adapters_path
from palmtop.runtime.reference.text_tasks import INSTRUCTION
from tests.reference.task_adapters import draw

from .jvm import Core

ITEMS = 10


@pytest.fixture(scope="module")
def tasks(phone: Core, int4_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Core:
    bundle = Path(shutil.copytree(int4_bundle, tmp_path_factory.mktemp("tasks") / "bundle"))
    for name in ("sort", "next"):
        add_adapter(bundle, adapters_path() / name)
    set_route(bundle, "sorting", Route(adapters={"sort": 1.0}, audio_projector="speech"))
    phone.ask("load", folder=str(bundle), context=256)
    return phone


def right(tasks: Core, **options: Any) -> float:
    """Share of the sorting task's held-out items answered exactly."""
    count = 0
    for number in range(ITEMS):
        question, answer = draw("sort", np.random.default_rng(10**6 + number), held_out=True)
        messages = [{"role": "user", "content": f"{question} {INSTRUCTION}"}]
        count += tasks.respond(messages, max_tokens=16, **options)["text"] == answer
    return count / ITEMS


def test_an_added_adapter_answers_by_name_and_by_route(tasks: Core) -> None:
    assert right(tasks, adapters={"sort": 1.0}) >= 0.7
    assert right(tasks, route="sorting") >= 0.7
    assert right(tasks, adapters={"next": 1.0}) <= 0.3
    assert right(tasks) <= 0.3


def test_a_named_adapter_stands_beside_the_routes(tasks: Core) -> None:
    messages = [{"role": "user", "content": "dog cat"}]
    reply = tasks.respond(messages, adapters={"next": 0.25}, route="sorting", max_tokens=2)
    assert reply["adapters"] == {"sort": 1.0, "next": 0.25}
