"""What a user gets wrong on the command line is one sentence and exit code 2; run as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def palmtop(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "palmtop", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "b", "hi", "--colour"], "--colour"),
        (["run", "b", "hi", "--max-tokens", "five"], "'five' is not a valid integer"),
        (["run"], "Missing argument 'BUNDLE'"),
        (["sing"], "No such command 'sing'"),
        (["bench", "b", "--repeat", "0"], "0 is not in the range"),
        (["run", "b", "hi", "--timeout", "0"], "palmtop: --timeout: found 0.0, expected above 0"),
        (["run", "b", "hi", "--max-tokens", "0"], "palmtop: --max-tokens: found 0, expected at least 1"),
        (["chat", "b", "--provider", "cuda"], "palmtop: --provider: found 'cuda', expected one of cpu"),
        (["run", "b", "hi", "--provider", "vision=x"], "palmtop: --provider: for vision found 'x', expected one of"),
        (["bench", "b", "--memory-limit", "lots"], "palmtop: --memory-limit: found 'lots', expected a size"),
        (
            ["verify", "BUNDLE", "--against", "c", "--report", "/no/folder/x.html"],
            "/no/folder/x.html: cannot be written",
        ),
        (["export", "c", "--ram", "9" * 400], "palmtop: --ram: found '9999"),
        (["run", "no-such-bundle", "hi"], "no-such-bundle"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str, int4_bundle: Path) -> None:
    done = palmtop(*(str(int4_bundle) if each == "BUNDLE" else each for each in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.startswith("palmtop: ")
    assert done.stderr.count("\n") == 1


def test_help_and_versions_are_no_mistakes() -> None:
    assert palmtop("run", "--help").returncode == 0
    assert palmtop("--version").stdout.startswith("palmtop")
    assert "Commands" in palmtop().stderr + palmtop().stdout


def test_a_prompt_from_a_closed_input_is_refused(toy_bundle: Path) -> None:
    command = f'exec "{sys.executable}" -m palmtop run "{toy_bundle}" - <&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard input" in done.stderr


def test_a_prompt_that_is_no_utf8_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"\xff\xfe")
    with (tmp_path / "prompt").open() as prompt:
        done = palmtop("run", str(toy_bundle), "-", stdin=prompt)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_dialogue_without_input_ends(toy_bundle: Path) -> None:
    command = f'exec "{sys.executable}" -m palmtop chat "{toy_bundle}" --threads 1 <&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2)


def test_retry_and_undo_in_a_dialogue(toy_bundle: Path) -> None:
    lines = "hello\n/retry\n/undo\n/retry\n/undo\n"
    done = palmtop("chat", str(toy_bundle), "--threads", "1", "--max-tokens", "4", input=lines)
    assert done.returncode == 2
    assert done.stderr.count("holds no question") == 2
    words = done.stdout.splitlines()
    assert len(words) == 2
    assert words[0] == words[1]


def test_ctrl_c_ends_a_run_without_a_traceback(int4_bundle: Path) -> None:
    command = [sys.executable, "-m", "palmtop", "run", str(int4_bundle), "one two " * 900, "--threads", "1"]
    command += ["--temperature", "9", "--max-tokens", "5000", "--context", "8192"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.read(1)
        run.send_signal(signal.SIGINT)
        errors = run.stderr.read()
        assert run.wait(60) == 130
    assert "Traceback" not in errors
