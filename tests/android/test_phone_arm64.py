"""The arm64-v8a libraries of the APK, the very files a phone gets, under an emulated processor: slow, a few items.

An arm64 Java machine runs the core under qemu. qemu 7 (of Debian 12 itself) crashes on these libraries, 10 does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import palmtop
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.reference.heldout import TASKS, Task, held_out_items
from palmtop.runtime.session import Session
from tests.android.jvm import Core
from tests.android.phone_libraries import arm64_java, make_libraries
from tests.android.requirements import make_or_skip

pytestmark = pytest.mark.slow
ITEMS = 3


@pytest.fixture(scope="module")
def bundle(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(reference_checkpoint, tmp_path_factory.mktemp("bundles") / "exact", Recipe(accuracy_level=0))


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[Session]:
    with palmtop.load(bundle, threads=1, context=512) as session:
        yield session


@pytest.fixture(scope="module")
def arm64(classes: Path, genai_jar: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    work = tmp_path_factory.mktemp("arm64")
    libraries = make_or_skip(lambda: make_libraries(work / "libraries", "arm64-v8a"), "javac").folder
    command = make_or_skip(lambda: arm64_java(libraries))
    with Core(classes, genai_jar, work, libraries, java=command) as core:
        core.ask("load", folder=str(bundle), context=512)
        yield core


@pytest.mark.parametrize("task", TASKS)
def test_the_apks_own_libraries_give_the_tokens_of_the_python_runtime(
    arm64: Core, session: Session, task: Task
) -> None:
    for item in held_out_items(task, ITEMS, 0):
        expected = session.answer(item.messages, options=GenerationOptions(max_tokens=12))
        reply = arm64.respond(item.messages, max_tokens=12)
        assert reply["ids"] == list(expected.token_ids)
        assert reply["adapters"] == expected.adapters
