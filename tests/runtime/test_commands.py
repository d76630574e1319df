"""The command line, on the toy bundle: what is printed where, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from palmtop.__main__ import COMMANDS, cli, main
from palmtop.errors import InputError, PalmtopError, RuntimeMissingError
from palmtop.runtime.chat.reply import Reply, Usage
from palmtop.runtime.commands.chat import Dialogue
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.evaluate import Outcome, Question, evaluate, read_questions, scores, wilson_interval
from palmtop.runtime.memory.size_option import Size
from palmtop.runtime.session import Session


def palmtop(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], input=stdin)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What ``palmtop`` prints when it exits with 2."""
    monkeypatch.setattr(sys, "argv", ["palmtop", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['palmtop', '--help']\n"
        "from palmtop.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'onnxruntime', 'onnxruntime_genai', 'PIL', 'librosa', 'soxr', 'rich', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("[]\n")
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", ["run", "chat", "inspect", "evaluate", "demo"])
def test_every_command_has_help_with_examples(name: str) -> None:
    result = palmtop(name, "--help")
    assert result.exit_code == 0
    assert f"  palmtop {name}" in result.stdout.split("Examples:")[1]


def test_run_streams_the_answer_to_standard_output(toy_bundle: Path) -> None:
    result = palmtop("run", toy_bundle, "hi", "--max-tokens", "5", "--threads", "1")
    assert result.exit_code == 0
    assert result.stdout.endswith("\n")
    assert result.stderr == "palmtop: the answer was cut after 5 tokens (--max-tokens)\n"


def test_run_json_is_the_whole_reply(toy_bundle: Path) -> None:
    reply = json.loads(
        palmtop("run", toy_bundle, "hi", "--max-tokens", "5", "--json", "--adapter", "speech=0.5").stdout
    )
    assert len(reply["token_ids"]) == 5
    assert reply["adapters"] == {"speech": 0.5}
    assert reply["usage"]["prompt_tokens"] >= 5
    assert (reply["finish_reason"], reply["ended_by"]) == ("length", "max_tokens")


def test_run_reads_the_prompt_from_a_pipe(toy_bundle: Path) -> None:
    arguments = ("--max-tokens", "5", "--json")
    piped = json.loads(palmtop("run", toy_bundle, "-", *arguments, stdin="hi").stdout)
    assert piped["token_ids"] == json.loads(palmtop("run", toy_bundle, "hi", *arguments).stdout)["token_ids"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("",), "the prompt is empty"),
        (("hi", "--adapter", "smell"), "adapters are: vision, speech"),
        (("hi", "--adapter", "vision=nan"), "expected a finite number"),
        (("hi", "--adapter", "vision=inf"), "expected a finite number"),
        (("hi", "--image", __file__), "expected a PNG"),
        (("hi", "--audio", __file__), "expected a WAV"),
        (("hi", "--image", "/nowhere.png"), "/nowhere.png"),
        (("hi", "--temperature", "-1"), "--temperature: found -1.0, expected 0 or more"),
        (("hi", "--context", "100000"), "serves at most 256"),
        (("x " * 400,), "session's context is 256"),
        (("hi", "--memory-limit", "1MB"), "no context would fit"),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_exit_2(
    toy_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    assert expected in refusal(monkeypatch, capsys, "run", toy_bundle, *arguments)


def test_a_missing_bundle_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in refusal(monkeypatch, capsys, "run", "/nowhere", "hi")


def test_twenty_milliseconds_of_sound_too_few_are_refused(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "short.wav", np.zeros(160, np.float32), 16000)
    shown = refusal(monkeypatch, capsys, "run", toy_bundle, "hi", "--audio", tmp_path / "short.wav")
    assert "10.0 ms" in shown


def test_other_errors_keep_their_traceback(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palmtop.runtime.session.Session.chat", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["palmtop", "run", str(toy_bundle), "hi"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'onnx_ir'", name="onnx_ir")

    monkeypatch.setattr("palmtop.__main__.importlib.import_module", missing)
    with pytest.raises(RuntimeMissingError, match=r"needs onnx_ir.*pip install .*'onnx-ir>=.*'safetensors>=[\d.]+'$"):
        cli.get_command(click.Context(cli), "export")


def test_a_missing_module_of_ours_is_our_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module", name="palmtop.oops")

    monkeypatch.setattr("palmtop.__main__.importlib.import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        cli.get_command(click.Context(cli), "run")


def test_chat_answers_line_by_line_from_a_pipe(toy_bundle: Path) -> None:
    lines = "hi\n\n/help\nmore\n/reset\nhi\n/quit\nnot reached\n"
    result = palmtop("chat", toy_bundle, "--max-tokens", "1", stdin=lines)
    assert result.exit_code == 0
    assert "/image FILE" in result.stderr
    assert result.stdout.count("\n") == 3


def test_chat_goes_on_after_a_refusal_and_tells_by_its_exit_code(toy_bundle: Path) -> None:
    result = palmtop("chat", toy_bundle, "--max-tokens", "1", stdin="/image /nowhere.png\n/dance\nhi\n")
    assert result.exit_code == 2
    assert "/nowhere.png: no such file" in result.stderr
    assert "'/dance' is no command" in result.stderr
    assert result.stdout.count("\n") == 1


def test_interrupt_stops_the_answer_and_not_the_program(
    toy_session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = 0

    def draw(*_: Any) -> int:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return 70

    monkeypatch.setattr("palmtop.runtime.decoding.generate.Sampler.draw", draw)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nmore\n"))
    conversation = toy_session.conversation()
    assert Dialogue(conversation, None, GenerationOptions(max_tokens=10)).run() == 0
    assert [m["role"] for m in conversation.messages] == ["user", "assistant", "user", "assistant"]
    assert drawn == 3 + 10
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_inspect_shows_parts_adapters_routes_and_memory(toy_bundle: Path) -> None:
    shown = palmtop("inspect", toy_bundle).stdout
    for expected in (
        "decoder linears",
        "vision (rank 4, alpha 8)",
        "image+audio",
        "kv cache",
        "up to 256 tokens",
    ):
        assert expected in shown
    data = json.loads(palmtop("inspect", toy_bundle, "--json", "--context", "100").stdout)
    assert data["routes"]["image+audio"] == {"vision": 1.0}
    assert data["memory"]["context"] == 100
    assert data["memory"]["kv_cache"] == 100 * 2 * 2 * 1 * 16 * 4
    assert data["memory"]["largest_context"] == 256


@pytest.mark.parametrize(("text", "expected"), [("12", 12), ("1.5 gb", 1_500_000_000), ("2MiB", 2 << 20)])
def test_sizes_as_people_write_them(text: str, expected: int) -> None:
    assert Size().convert(text, None, None) == expected


def test_a_size_that_is_none_is_a_usage_error(toy_bundle: Path) -> None:
    result = palmtop("run", toy_bundle, "hi", "--memory-limit", "lots")
    assert isinstance(result.exception, InputError)
    assert "expected a size such as 2GB" in str(result.exception)


class Parrot:
    """Answers with the last message's text."""

    def answer(self, messages: Any, *, adapters: Any = None, options: Any = None) -> Reply:
        usage = Usage(
            prompt_tokens=1,
            cached_tokens=0,
            media_rows=0,
            completion_tokens=1,
            reprefilled=None,
            ttft_s=0.0,
            tokens_per_s=0.0,
            peak_rss_bytes=None,
        )
        text = messages[-1]["content"]
        return Reply(text=text, token_ids=(), ended_by="eos", mode="text", adapters={}, usage=usage)


def question(said: str, expected: str, group: str = "") -> Question:
    return Question(task="echo", messages=[{"role": "user", "content": said}], expected=expected, group=group)


def test_scores_are_per_task_and_group() -> None:
    noted: list[Outcome] = []
    questions = [question(" a ", "a", "x"), question("b", "c", "x"), question("d", "d", "y")]
    outcomes = evaluate(Parrot(), questions, options=GenerationOptions(), progress=noted.append)
    assert outcomes == noted
    found = [(s.group, s.correct, s.total) for s in scores(outcomes)]
    assert found == [("", 2, 3), ("x", 1, 2), ("y", 1, 1)]


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (5, 5), (37, 50), (0, 400)])
def test_wilson_interval_is_the_root_of_its_equation(correct: int, total: int) -> None:
    share = correct / total
    for end in wilson_interval(correct, total):
        if 0 < end < 1:
            assert abs(abs(share - end) - 1.959964 * (end * (1 - end) / total) ** 0.5) < 1e-9
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= share <= high <= 1


def test_questions_find_their_media_beside_the_file(tmp_path: Path) -> None:
    part = {"type": "image", "image": "media/a.png"}
    line = {"task": "t", "messages": [{"role": "user", "content": [part]}], "expected": "x"}
    (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n\n")
    (found,) = read_questions(tmp_path / "q.jsonl")
    assert found.messages[0]["content"][0]["image"] == str(tmp_path / "media/a.png")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "q.jsonl:1: is not JSON"),
        ("[]", "is an empty list, expected an object"),
        ('{"task": 1}', "'task' is a number, expected text"),
    ],
)
def test_a_bad_line_is_refused_by_number(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(InputError, match=expected):
        list(read_questions(tmp_path / "q.jsonl"))


def test_evaluate_prints_a_table_or_json(toy_bundle: Path, tmp_path: Path) -> None:
    line = {"task": "t", "messages": [{"role": "user", "content": "hi"}], "expected": "x"}
    (tmp_path / "q.jsonl").write_text("\n".join([json.dumps(line)] * 3))
    arguments = ("evaluate", toy_bundle, tmp_path / "q.jsonl", "--max-tokens", "2")
    assert "95 % interval" in palmtop(*arguments).stdout
    (score,) = json.loads(palmtop(*arguments, "--json", "--items", "2").stdout)["scores"]
    assert (score["task"], score["correct"], score["total"]) == ("t", 0, 2)
    result = palmtop(*arguments, "--task", "other")
    assert isinstance(result.exception, PalmtopError)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield


@pytest.mark.parametrize("context", ["-5", "0"])
def test_inspect_plans_for_no_impossible_context(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], context: str
) -> None:
    shown = refusal(monkeypatch, capsys, "inspect", toy_bundle, "--context", context)
    assert f"--context: found {context}, expected at least 1" in shown


def test_chat_needs_no_readline(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palmtop.runtime.commands.chat import Dialogue
    from palmtop.runtime.decoding.generation_options import GenerationOptions

    monkeypatch.setitem(sys.modules, "readline", None)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert Dialogue(None, None, GenerationOptions()).interactive  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a" * 5000, "nowhere.png", "\udcff"])
def test_a_file_name_that_cannot_be_is_one_sentence(name: str) -> None:
    from palmtop.runtime.commands.dialogue.attachments import typed_paths

    with pytest.raises(PalmtopError, match=r"is not a file|no such file"):
        typed_paths(name)


def test_a_full_disk_behind_the_output_is_one_sentence(toy_bundle: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "palmtop", "inspect", str(toy_bundle), "--json"]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.strip() == "palmtop: the result could not be written (No space left on device)"


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    from palmtop.runtime.processor.images.dynamic_hd import load_image

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PalmtopError, match="is a device or a pipe"):
        load_image(tmp_path / "pipe")
