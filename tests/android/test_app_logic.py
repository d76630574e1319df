"""The phone app's state machines on the Java machine, compiled as for the phone: chat, files, recording, benchmark."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from android_demo.builder import tools
from tests.android.phone import java_classpath, phone_classes_or_skip

TESTS = Path(__file__).with_name("applogic")
CLASSES = ("ChatTest", "FilesTest", "MeasureTest")
pytestmark = pytest.mark.android
TIMEOUT_S = 300


def cases() -> list[str]:
    return [
        f"{name}.{method}"
        for name in CLASSES
        for method in re.findall(r"^    public void (\w+)\(", (TESTS / f"{name}.java").read_text("utf-8"), re.M)
    ]


@pytest.fixture(scope="module")
def results(int4_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each Java test said; one Java machine runs them all."""
    work = tmp_path_factory.mktemp("applogic")
    jar, classes = phone_classes_or_skip()
    tools.compile_java([TESTS], [jar, classes], [], work / "tests")
    path = java_classpath(jar, classes, work / "tests")
    properties = [f"-Dwork={work}", f"-Dbundle={int4_bundle}"]
    command = ["java", "-Xmx96m", "-cp", path, *properties, "Check", *CLASSES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    found = re.findall(r"^RESULT (\S+) (.*)$", done.stdout, re.M)
    assert found, done.stderr
    return dict(found)


@pytest.mark.parametrize("case", cases())
def test_the_app_behaves(case: str, results: dict[str, str]) -> None:
    assert results.get(case) == "ok"


def test_every_java_test_was_found(results: dict[str, str]) -> None:
    assert set(results) == set(cases())
