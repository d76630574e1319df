"""The core compiled once, and Java machines to ask it: one without native code, one with the phone's libraries.

Skips, and says why, where the tools are not installed or the packages not in the cache; with
``PALMTOP_REQUIRE_ANDROID=1`` (as in .ci/run) packages are downloaded, and what is missing is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from android_demo.packages import PackageError

from .jvm import Core, compile_core
from .phone_libraries import PhoneLibraries, aar, is_required, make_libraries, missing_tools, take_classes


@pytest.fixture(scope="session")
def genai_jar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """classes.jar of genai's AAR, which the core is compiled against."""
    return make_or_skip(lambda: take_classes(aar("genai"), tmp_path_factory.mktemp("genai") / "genai.jar"), "javac")


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
    return make_or_skip(lambda: make_libraries(tmp_path_factory.mktemp("phone") / "x86_64", "x86_64"), "javac", "gcc")


@pytest.fixture(scope="module")
def phone(
    classes: Path, genai_jar: Path, phone_libraries: PhoneLibraries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Core]:
    """The core with the phone's libraries."""
    with Core(classes, genai_jar, tmp_path_factory.mktemp("phone-work"), phone_libraries.folder) as running:
        yield running


def make_or_skip(make: Callable[[], Any], *tools: str) -> Any:
    reason = missing_tools(*tools)
    if not reason:
        try:
            return make()
        except PackageError as error:
            reason = str(error)
    if is_required():
        pytest.fail(f"Android tools are required here: {reason}")
    pytest.skip(f"{reason}; 'python android_demo/packages.py fetch' fills the cache")
