"""What a user types into ``palmtop chat``: pasted paths, several lines, completion, attachments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

from palmtop.__main__ import cli
from palmtop.errors import PalmtopError
from palmtop.runtime.commands.chat import COMMANDS, TAKING_FILES, dropped
from palmtop.runtime.commands.dialogue.attachments import attach, completions, typed_paths, unquoted
from palmtop.runtime.commands.dialogue.line_input import LineInput

NAME = "my cat's (1) & dog.png"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (640, 480)).save(tmp_path / NAME)
    Image.new("L", (8, 6)).save(tmp_path / "b.jpg")
    soundfile.write(tmp_path / "talk.wav", np.sin(np.arange(51200) / 10) * 0.5, 16000)
    soundfile.write(tmp_path / "muted.flac", np.random.default_rng(0).normal(0, 1e-5, 16000), 16000)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "spelled",
    [
        NAME,
        "  " + NAME + " ",
        '"' + NAME + '"',
        "my\\ cat\\'s\\ \\(1\\)\\ \\&\\ dog.png",
        "{folder}/" + NAME,
        '"{folder}/' + NAME + '"',
        "{folder}/my\\ cat\\'s\\ \\(1\\)\\ \\&\\ dog.png",
        "file://{folder}/my%20cat's%20(1)%20&%20dog.png",
        "'my cat'\\''s (1) & dog.png'",
    ],
)
def test_a_path_is_found_as_terminals_paste_it(spelled: str, folder: Path) -> None:
    assert [path.resolve() for path in typed_paths(spelled.replace("{folder}", str(folder)))] == [folder / NAME]


def test_several_files_are_dropped_at_once(folder: Path) -> None:
    assert typed_paths(f"b.jpg '{folder}/talk.wav'") == [Path("b.jpg"), folder / "talk.wav"]
    with pytest.raises(PalmtopError, match=r"^gone\.png: no such file$"):
        typed_paths("b.jpg gone.png")


@pytest.mark.parametrize("text", ["gone.png", "it's gone.png", '"', "~nobody-here/x"])
def test_a_file_that_is_not_there_is_one_sentence(text: str, folder: Path) -> None:
    with pytest.raises(PalmtopError, match=r"no such file|is not a file"):
        typed_paths(text)


def test_a_line_that_is_a_path_is_a_file_and_a_text_is_a_text(folder: Path) -> None:
    assert dropped(f"{folder}/b.jpg") == [folder / "b.jpg"]
    assert dropped(f"'{folder}/talk.wav' ") == [folder / "talk.wav"]
    assert dropped("/image b.jpg") is None
    assert dropped("b.jpg") is None  # a word of a question
    assert dropped("/imagine a cat") is None
    assert dropped("'tis nothing") is None


def test_attachments_say_what_they_are(folder: Path) -> None:
    assert attach("image", folder / NAME).about == f"{NAME}: PNG picture, 640 x 480"
    assert attach("audio", folder / "talk.wav").about == "talk.wav: sound, 3.2 s"
    assert attach("audio", folder / "muted.flac").about == "muted.flac: sound, 1.0 s, silent"
    with pytest.raises(PalmtopError, match=r"talk\.wav"):
        attach("image", folder / "talk.wav")


def complete(line: str) -> list[str]:
    return list(completions(line, COMMANDS, TAKING_FILES))


def test_commands_and_files_are_completed(folder: Path) -> None:
    assert complete("/im") == ["/image "]
    assert complete("/re") == ["/retry", "/reset"]
    assert complete("/s") == ["/save "]
    assert complete("/image b") == ["/image b.jpg"]
    assert complete("/image my") == [f"/image {NAME}"]
    assert complete('/audio "ta') == ['/audio "talk.wav"']
    assert complete(f"/image {folder}/b") == [f"/image {folder}/b.jpg"]
    assert complete("/image s") == ["/image sub/"]
    assert complete("/image gone/x") == complete("hello b") == complete("/help b") == []


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""one', "two", '"""'], "one\ntwo"),
        (['"""', "one", "", "two", '"""'], "one\n\ntwo"),
        (['"""one"""'], "one"),
        (['"""', 'one"""'], "one"),
        (["/image C:\\"], "/image C:\\"),
    ],
)
def test_texts_of_several_lines(typed: list[str], text: str) -> None:
    lines = iter(typed)
    assert LineInput(COMMANDS, TAKING_FILES, lambda _: next(lines)).text() == text
    assert list(lines) == []


@pytest.fixture
def chat(int4_bundle: Path) -> Callable[[str], Result]:
    return lambda text: CliRunner().invoke(cli, ["chat", str(int4_bundle), "--threads", "1"], input=text)


def test_attachments_are_acknowledged_and_sent(chat: Callable[[str], Result], folder: Path) -> None:
    shown = chat(f"/image '{NAME}'\n{folder}/talk.wav\nWhat is it?\n")
    assert shown.exit_code == 0
    assert shown.stderr.splitlines()[:2] == [f"[{NAME}: PNG picture, 640 x 480]", "[talk.wav: sound, 3.2 s]"]
    refused = chat("/image\n/image gone.png\n/nothing\n")
    assert refused.exit_code == 2
    assert [line.split(", expected")[0] for line in refused.stderr.splitlines()] == [
        "palmtop: /image: found no file",
        "palmtop: gone.png: no such file",
        "palmtop: '/nothing' is no command",
    ]


@pytest.mark.parametrize("command", ["run", "transcribe"])
def test_a_silent_recording_is_called_silent(
    command: str, int4_bundle: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--audio", "muted.flac"] if command == "run" else []
    what = "What is it?" if command == "run" else "muted.flac"
    done = CliRunner().invoke(cli, [command, str(int4_bundle), what, *arguments, "--max-tokens", "2"])
    assert done.exit_code == 0
    assert "muted.flac: the recording is silent" in caplog.text
    caplog.clear()
    what = "What is it?" if command == "run" else "talk.wav"
    arguments = ["--audio", "talk.wav"] if command == "run" else []
    assert CliRunner().invoke(cli, [command, str(int4_bundle), what, *arguments, "--max-tokens", "2"]).exit_code == 0
    assert "silent" not in caplog.text


def test_json_is_one_object(int4_bundle: Path, folder: Path) -> None:
    done = CliRunner().invoke(cli, ["transcribe", str(int4_bundle), "talk.wav", "--max-tokens", "2", "--json"])
    assert set(json.loads(done.stdout)) == {"text", "duration_s", "segments"}


@pytest.mark.parametrize("spelled", ["a b.c", "'a b.c'", "a\\ b.c", ' "a b.c" ', "it's.c"])
def test_the_path_of_a_file_to_be_written_is_unquoted(spelled: str) -> None:
    assert unquoted(spelled) == ("it's.c" if "it" in spelled else "a b.c")


def test_a_picture_or_a_sound_comes_through_a_pipe(int4_bundle: Path, folder: Path) -> None:
    def ask(flag: str, data: bytes, *more: str) -> Result:
        arguments = ["run", str(int4_bundle), "What is it?", flag, "-", *more, "--threads", "1"]
        return CliRunner().invoke(cli, arguments, input=data)

    for flag, name in (("--image", "b.jpg"), ("--audio", "talk.wav")):
        by_path = CliRunner().invoke(cli, ["run", str(int4_bundle), "What is it?", flag, name, "--threads", "1"])
        assert ask(flag, Path(name).read_bytes()).stdout == by_path.stdout != ""
    assert "standard input is empty" in str(ask("--image", b"").exception)
    assert "more than once" in str(ask("--image", b"", "--audio", "-").exception)
