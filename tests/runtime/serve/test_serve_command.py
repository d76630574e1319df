"""``palmtop serve`` as users start it: where it listens, how it ends, and what it refuses in one sentence."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.runtime.serve.live_server import TEXT

PALMTOP = (sys.executable, "-m", "palmtop", "serve")
KEY = "a-key-of-some-length"


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_answers_and_stops(int4_bundle: Path, tmp_path: Path, stop: signal.Signals) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    command = [*PALMTOP, int4_bundle, "--port", "0", "--threads", "1", "--api-key-file", tmp_path / "key"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"int4 at (http://127\.0\.0\.1:\d+/)$", line)
        assert found is not None, line
        body = {"model": "int4", "messages": TEXT}
        headers = {"authorization": f"Bearer {KEY}"}
        response = httpx.post(f"{found[1]}v1/chat/completions", json=body, headers=headers, timeout=60)
        assert response.json()["choices"][0]["message"]["content"] == "289"
        process.send_signal(stop)
        log = process.stderr.read()
        assert process.wait(30) in (0, -stop, 130)
    assert "POST /v1/chat/completions 200" in log and "Traceback" not in log
    assert KEY not in log and "nine" not in log


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--host", "192.168.1.1"], "--api-key-file"),
        (["--host", "::"], "--api-key-file"),
        (["--host", "0.0.0.0", "--api-key-file", "{folder}/short"], "at least 16"),
        (["--api-key-file", "{folder}/missing"], "cannot be read"),
        (["--api-key-file", "{folder}/spaced"], "in one word"),
        (["--host", "203.0.113.7", "--api-key-file", "{folder}/good"], "cannot listen"),
        (["--host", "no such host", "--api-key-file", "{folder}/good"], "cannot listen"),
        (["--port", "70000"], "--port"),
        (["--max-body", "much"], "--max-body"),
        (["--timeout", "0"], "--timeout"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    int4_bundle: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "short").write_text("key")
    (tmp_path / "spaced").write_text("a key of some length")
    (tmp_path / "good").write_text(KEY)
    command = [*PALMTOP, str(int4_bundle), "--port", "0", *(part.format(folder=tmp_path) for part in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert expected in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_folder_that_is_no_bundle_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run([*PALMTOP, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "bundle.json" in done.stderr and done.stderr.count("\n") == 1


def test_the_help_fits_a_terminal() -> None:
    done = subprocess.run([*PALMTOP, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "Examples:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
