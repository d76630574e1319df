"""Line ends, byte order marks and NUL characters around what is typed or piped in: they are no part of a question."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import palmtop.runtime.session as session_module
from palmtop.__main__ import cli
from palmtop.errors import InputError

QUESTION = "one\ntwo"
SPELLINGS = {
    "newline at the end": b"one\ntwo\n",
    "several newlines at the end": b"one\ntwo\n\n\n",
    "crlf": b"one\r\ntwo\r\n",
    "cr": b"one\rtwo\r",
    "mark": b"\xef\xbb\xbfone\ntwo",
    "mark and crlf": b"\xef\xbb\xbfone\r\ntwo",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the prompts of all messages were made of, in order."""
    seen: list[Any] = []
    read = session_module.Processor

    class Listening(read):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            prompt = self.text.prompt

            def listen(messages: Any, **others: Any) -> Any:
                seen.append([m["content"] for m in messages])
                return prompt(messages, **others)

            self.text.prompt = listen

    monkeypatch.setattr(session_module, "Processor", Listening)
    return seen


def palmtop(bundle: Path, command: str, *arguments: str, stdin: bytes = b"") -> Any:
    options = ["--threads", "1", "--max-tokens", "1"]
    return CliRunner().invoke(cli, [command, str(bundle), *arguments, *options], input=stdin)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_piped_prompt_is_the_text_alone(toy_bundle: Path, asked: list[Any], name: str) -> None:
    assert palmtop(toy_bundle, "run", "-", stdin=SPELLINGS[name]).exit_code == 0
    assert asked == [[QUESTION]]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_prompt_and_a_system_message_are_the_text_alone(toy_bundle: Path, asked: list[Any], name: str) -> None:
    text = SPELLINGS[name].decode()
    assert palmtop(toy_bundle, "run", text, "--system", text).exit_code == 0
    assert palmtop(toy_bundle, "chat", "--system", text, stdin=b"hi\n").exit_code == 0
    assert asked == [[QUESTION, QUESTION], [QUESTION, "hi"]]


@pytest.mark.parametrize("name", SPELLINGS)
def test_lines_of_a_dialogue_are_the_text_alone(toy_bundle: Path, asked: list[Any], name: str) -> None:
    assert palmtop(toy_bundle, "chat", stdin=SPELLINGS[name]).exit_code == 0
    assert [messages[-1] for messages in asked] == ["one", "two"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_dialogue_of_a_real_pipe_ends_its_lines_at_any_line_end(toy_bundle: Path, end: str) -> None:
    command = [sys.executable, "-m", "palmtop", "chat", str(toy_bundle), "--threads", "1", "--max-tokens", "1"]
    typed = end.join(["/image nothing.png", "one", "/quit", "two", ""])
    done = subprocess.run(command, input=typed.encode(), capture_output=True)
    assert done.stderr.decode().splitlines()[0] == "palmtop: nothing.png: no such file"
    assert done.returncode == 2


def test_binary_input_is_refused_in_a_sentence(toy_bundle: Path) -> None:
    for content in (b"a\0b", "one".encode("utf-16-le")):
        refused = palmtop(toy_bundle, "run", "-", stdin=content)
        assert isinstance(refused.exception, InputError)
        assert "found a NUL character at place 1, expected text in UTF-8" in str(refused.exception)
    assert "cannot be read" in str(palmtop(toy_bundle, "run", "-", stdin="one".encode("utf-16")).exception)


def test_a_line_with_a_nul_is_refused_and_the_dialogue_goes_on(toy_bundle: Path, asked: list[Any]) -> None:
    chat = palmtop(toy_bundle, "chat", stdin=b"a\0b\none\n")
    assert chat.exit_code == 2
    assert "found a NUL character" in chat.stderr
    assert asked == [["one"]]


def test_a_schema_with_a_byte_order_mark_is_read(toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_bytes(b'\xef\xbb\xbf{"enum": [7]}\r\n')
    assert palmtop(toy_bundle, "run", "hi", "--schema", str(tmp_path / "schema.json")).stdout == "7\n"
