"""Mutated files: an answer or a PalmtopError for each, never a crash or a hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a fuzzer; what dies or hangs dies and hangs there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "faulthandler", "-m", f"tests.hostile.{module}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=seconds
    )


def check(done: subprocess.CompletedProcess[str]) -> None:
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"exit code {done.returncode} after mutant {last}: {done.stderr[-3000:]}"


def test_2000_mutated_pictures_and_sounds() -> None:
    done = run("fuzz_media", "0", "2000", seconds=300)
    check(done)
    refused = int(done.stderr.split("refused ")[-1].split(" of ")[0])
    assert 1000 < refused < 2000  # some are broken, some are not


def test_a_header_with_an_impossible_length_is_refused() -> None:
    check(run("fuzz_media", "9833", "1", seconds=120))  # soundfile asked numpy for a negative size


def test_some_mutated_bundles(int4_bundle: Path, tmp_path: Path) -> None:
    check(run("fuzz_bundles", str(int4_bundle), str(tmp_path), "0", "25", seconds=300))


@pytest.mark.slow
def test_500_mutated_bundles(int4_bundle: Path, tmp_path: Path) -> None:
    done = run("fuzz_bundles", str(int4_bundle), str(tmp_path), "0", "500", seconds=3600)
    check(done)
    refused = int(done.stderr.split("refused ")[-1].split(" of ")[0])
    assert 250 < refused < 500
