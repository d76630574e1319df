"""The phone app's state machines on the Java machine, compiled as for the phone: chat, files, recording, benchmark."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from android_demo.builder import tools
from palmtop.runtime.processor.sounds.sound_file import load_audio
from tests.android.phone import ROOT, java_classpath, phone_classes_or_skip
from tests.android.sounds import write_sounds

TESTS = Path(__file__).with_name("applogic")
CLASSES = ("ChatTest", "HistoryTest", "SoundTest", "FilesTest", "MeasureTest")
pytestmark = pytest.mark.android
TIMEOUT_S = 300


def cases() -> list[str]:
    return [
        f"{name}.{method}"
        for name in CLASSES
        for method in re.findall(r"^    public void (\w+)\(", (TESTS / f"{name}.java").read_text("utf-8"), re.M)
    ]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Compressed recordings; the Java test writes what it takes from NAME to NAME.taken."""
    return write_sounds(ROOT / "runtime/reference/samples/audio.wav", tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def results(int4_bundle: Path, sounds: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each Java test said; one Java machine runs them all."""
    work = tmp_path_factory.mktemp("applogic")
    jar, classes = phone_classes_or_skip()
    tools.compile_java([TESTS], [jar, classes], [], work / "tests")
    path = java_classpath(jar, classes, work / "tests")
    properties = [f"-Dwork={work}", f"-Dbundle={int4_bundle}", f"-Dsounds={sounds[0].parent}"]
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


@pytest.mark.parametrize("kind", ["ogg", "mp3", "flac", "m4a"])
def test_a_compressed_sound_is_heard_as_in_python(kind: str, sounds: list[Path], results: dict[str, str]) -> None:
    """The app's WAV file of a decoded sound against Python's own reading of the compressed one."""
    assert results["SoundTest.realSoundsAreDecodedToWhatPythonReads"] == "ok"
    file = next(sound for sound in sounds if sound.suffix == f".{kind}")
    expected = load_audio(file, rate_hz=16000)
    found = load_audio(file.with_name(f"{file.name}.taken"), rate_hz=16000)
    assert np.abs(expected).max() > 0.1
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 1.5 / 32768  # rounded to 16 bits, before the mean and after it
