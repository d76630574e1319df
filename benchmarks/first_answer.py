"""Time from an empty machine to a real model's answer: the README's own three commands, in a new environment.

    python -m benchmarks.first_answer [--keep FOLDER]

Needs the package index. Prints the seconds of each command by the clock, and the answer. The last command, a
dialogue, is given one question. The checkout is copied, so that nothing built before is used.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADING = "## A real chat model"
QUESTION = "Why is the sky blue? Answer in one sentence.\n"
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")


def commands() -> list[str]:
    """Return the commands of the README's section, in its own words."""
    section = (ROOT / "README.md").read_text("utf-8").split(HEADING)[1]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line for line in block[1].splitlines() if line.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder to work in, kept afterwards")
    chosen = parser.parse_args().keep
    folder = Path(tempfile.mkdtemp()) if chosen is None else chosen
    checkout = folder / "palmtop"
    shutil.copytree(ROOT, checkout, ignore=LEFT_OUT)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "setuptools>=77"], check=True
    )  # --no-build-isolation needs it
    own = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder / "cache")}
    total_s = 0.0
    try:
        for command in commands():
            started = time.perf_counter()
            done = subprocess.run(
                ["bash", "-euc", command],
                cwd=checkout,
                env=os.environ | own,
                input=QUESTION,
                text=True,
                capture_output=True,
                check=False,
            )
            seconds = time.perf_counter() - started
            total_s += seconds
            print(f"{seconds:7.1f} s  {command}", flush=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
        print(f"{total_s:7.1f} s  in all; the answer: {done.stdout.strip()}")
    finally:
        if chosen is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
