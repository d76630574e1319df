"""Pictures from the clipboard and sounds from the microphone, by programs that stand on PATH in the tests."""

from __future__ import annotations

import io
import json
import os
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from palmtop.__main__ import cli
from palmtop.errors import InputError
from palmtop.runtime.commands.dialogue import capture
from palmtop.runtime.commands.dialogue.capture import captured, clipboard_picture, recording
from palmtop.runtime.processor.sounds.sound_file import load_audio
from palmtop.runtime.reference import samples_path
from tests.runtime.serve.live_server import IMAGE


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, and no display, package or file of a captured name."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    monkeypatch.chdir(tmp_path)
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    return folder


def program(folder: Path, name: str, script: str) -> None:
    """A program in Python; its arguments are noted beside it."""
    noted = folder / f"{name}.arguments"
    head = f"#!{sys.executable}\nimport sys, time\nopen({str(noted)!r}, 'w').write('\\n'.join(sys.argv[1:]))\n"
    (folder / name).write_text(head + script)
    (folder / name).chmod(0o755)


def gives(path: Path) -> str:
    return f"sys.stdout.buffer.write(open({str(path)!r}, 'rb').read())\n"


@pytest.mark.parametrize(
    ("system", "variables", "name", "argument"),
    [
        ("linux", {"WAYLAND_DISPLAY": "wayland-0", "DISPLAY": ":0"}, "wl-paste", "image/png"),
        ("linux", {"DISPLAY": ":0"}, "xclip", "clipboard"),
        ("linux", {}, "powershell.exe", "-STA"),
        ("win32", {}, "powershell.exe", "-NoProfile"),
        ("darwin", {}, "pngpaste", "-"),
    ],
)
def test_the_picture_of_the_clipboard_is_read_by_the_systems_program(
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    variables: dict[str, str],
    name: str,
    argument: str,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    for other in {p.name for p in capture.CLIPBOARDS} - {name} if name != "wl-paste" else ():
        if other in ("wl-paste", "pngpaste"):  # of another system, or without its display
            program(programs, other, "sys.exit('wrong program')")
    program(programs, name, gives(samples_path() / "image.png"))
    monkeypatch.setattr(capture, "SYSTEM", system)
    assert clipboard_picture() == IMAGE
    assert argument in (programs / f"{name}.arguments").read_text().split("\n")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, r"clipboard: found none of wl-paste \(with WAYLAND_DISPLAY set\), xclip .* on PATH, expected one"),
        ("", r"clipboard: holds no picture \(xclip\), expected a copied picture"),
        ("sys.exit('Error: target image/png not available')", r"holds no picture \(xclip: Error: target image/png"),
        ("time.sleep(60)", r"clipboard: xclip gave nothing for 0.5 s"),
    ],
)
def test_a_clipboard_without_a_picture_is_refused(
    programs: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, sentence: str
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(capture, "SYSTEM", "linux")
    if script is not None:
        program(programs, "xclip", script)
        monkeypatch.setattr(capture, "CLIPBOARD_S", 0.5 if "sleep" in script else 60.0)
    with pytest.raises(InputError, match=sentence):
        clipboard_picture()


SECOND = np.round(8000 * np.sin(np.arange(16_000) / 9)).astype("<i2").tobytes()
ENDLESS = "while True:\n    sys.stdout.buffer.write({0!r})\n    sys.stdout.flush()\n    time.sleep(0.01)\n"


@pytest.mark.parametrize(("system", "name"), [("linux", "arecord"), ("linux", "parec"), ("darwin", "rec")])
def test_a_recording_of_some_seconds_ends_the_program(
    programs: Path, monkeypatch: pytest.MonkeyPatch, system: str, name: str
) -> None:
    monkeypatch.setattr(capture, "SYSTEM", system)
    program(programs, name, ENDLESS.format(SECOND[:3201]))  # an odd number of bytes, as when it is cut
    monkeypatch.setattr(capture, "LONGEST_S", 2.0)
    with wave.open(io.BytesIO(recording(1.5))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        assert 0 < file.getnframes() <= 32_000
        assert file.readframes(1600) == SECOND[:3200]
    assert any("16000" in one for one in (programs / f"{name}.arguments").read_text().split("\n"))


def test_a_recording_without_a_length_ends_with_enter(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, size: int = -1) -> str:
            entered.append(True)
            return "\n"

    entered: list[bool] = []
    program(programs, "rec", ENDLESS.format(SECOND))
    monkeypatch.setattr(capture, "STARTED_S", 3.0)
    monkeypatch.setattr(sys, "stdin", Terminal())
    samples = load_audio(recording(None), 16_000)
    assert entered and "Enter ends it" in capsys.readouterr().err
    assert float(np.abs(samples).max()) > 0.2


class Package:
    """The interface of sounddevice that is used."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def RawInputStream(self, *, callback: Any, samplerate: int, channels: int, dtype: str) -> Package:  # noqa: N802
        assert (samplerate, channels, dtype) == (16_000, 1, "int16")
        if self.fault:
            raise RuntimeError(self.fault)
        callback(memoryview(SECOND), 16_000, None, None)
        return self

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_the_package_sounddevice_records_where_no_program_does(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Package())  # type: ignore[arg-type]
    with wave.open(io.BytesIO(recording(0.1))) as file:
        assert file.readframes(1 << 20) == SECOND
    monkeypatch.setitem(sys.modules, "sounddevice", Package("no device"))  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"mic: nothing was recorded \(sounddevice: no device\), expected a microphone"
    ):
        recording(0.1)


@pytest.mark.parametrize(
    ("name", "script", "sentence"),
    [
        ("mic:1", None, "mic: found none of .*rec on PATH, nor the Python package sounddevice, expected one of them"),
        ("mic:1", "sys.exit('audio open error: No such file')", r"nothing was recorded \(rec: audio open error: No"),
        ("mic", None, "mic: standard input is no terminal to press Enter at, expected mic:SECONDS"),
        ("mic:", None, "mic: found '' behind the colon, expected 0.1 to 600 seconds"),
        ("mic:0", None, "mic: found '0' behind the colon"),
        ("mic:nan", None, "mic: found 'nan' behind the colon"),
        ("mic:1e9", None, "mic: found '1e9' behind the colon"),
        ("mic:" + "1" * 5000, None, "mic: found '1+' behind the colon"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    programs: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str | None, sentence: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    if script is not None:
        program(programs, "rec", script)
    with pytest.raises(InputError, match=sentence):
        captured(Path(name), "audio")


def test_a_file_of_that_name_goes_first(programs: Path) -> None:
    for name in ("clipboard", "mic", "mic:3"):
        Path(name).touch()
        kind: Any = "image" if name == "clipboard" else "audio"
        assert captured(Path(name), kind) == Path(name)
    assert captured(Path("mic"), "image") == Path("mic")


def test_run_and_chat_take_them(
    int4_bundle: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    samples = load_audio(samples_path() / "audio.wav", 16_000)
    (programs / "spoken").write_bytes((samples * 32767).astype("<i2").tobytes())
    program(programs, "rec", gives(programs / "spoken"))
    program(programs, "wl-paste", gives(samples_path() / "image.png"))
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setattr(capture, "SYSTEM", "linux")
    run = ["run", str(int4_bundle), "What is it?", "--threads", "1"]
    assert CliRunner().invoke(cli, [*run, "--image", "clipboard"]).stdout == "303\n"
    assert CliRunner().invoke(cli, [*run, "--audio", "mic:60"]).stdout == "753\n"
    lines = "/image clipboard\nWhat is it?\n/reset\n/audio mic:60\nWhat is it?\n"
    chat = CliRunner().invoke(cli, ["chat", str(int4_bundle), "--threads", "1"], input=lines)
    assert chat.stdout == "303\n753\n"
    assert "[clipboard: PNG picture, " in chat.stderr and "[mic:60: sound, " in chat.stderr
    caplog.clear()
    program(programs, "rec", f"sys.stdout.buffer.write(bytes({len(samples)}))\n")
    reply = json.loads(CliRunner().invoke(cli, [*run, "--audio", "mic:60", "--json"]).stdout)
    assert reply["mode"] == "audio" and "the recording is silent" in caplog.text
    assert os.listdir(programs)
