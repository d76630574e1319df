"""The core compiled once, and Java machines to ask it: one without native code, one with the phone's libraries.

Tests skip, or fail, as ``requirements.py`` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.android.jvm import Core, compile_core
from tests.android.phone_libraries import PhoneLibraries, aar, make_libraries, take_classes
from tests.android.requirements import make_or_skip


@pytest.fixture(scope="session")
def genai_jar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """classes.jar of genai's AAR, which the core is compiled against."""
    return make_or_skip(
        lambda: take_classes(aar("genai"), tmp_path_factory.mktemp("genai") / "genai.jar"), "javac", "java"
    )


@pytest.fixture(scope="session")
def classes(genai_jar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_core(tmp_path_factory.mktemp("core") / "classes", genai_jar)


@pytest.fixture(scope="session")
def core(classes: Path, genai_jar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """The core in a plain Java machine: nothing native."""
    with Core(classes, genai_jar, tmp_path_factory.mktemp("plain")) as running:
        yield running


@pytest.fixture(scope="session")
def phone_libraries(tmp_path_factory: pytest.TempPathFactory) -> PhoneLibraries:
    """The phone's x86_64 libraries, loadable here."""
    return make_or_skip(
        lambda: make_libraries(tmp_path_factory.mktemp("phone") / "x86_64", "x86_64"), "javac", "java", "gcc"
    )


@pytest.fixture(scope="module")
def phone(
    classes: Path, genai_jar: Path, phone_libraries: PhoneLibraries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Core]:
    """The core with the phone's libraries."""
    with Core(classes, genai_jar, tmp_path_factory.mktemp("phone-work"), phone_libraries.folder) as running:
        yield running
