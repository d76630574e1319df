"""Environments of the peers: a venv for each, and llama.cpp built for this machine from the source that PyPI has.

A venv comes first in its own path and borrows what it lacks (numpy, torch) from the environment of the tests, which
saves gigabytes; nothing that a peer installs is seen by another.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from pathlib import Path

LLAMA_CPP = "llama-cpp-python==0.3.36"
LLAMA_BUILD = "-DGGML_NATIVE=ON -DGGML_CPU_REPACK=ON -DLLAVA_BUILD=OFF"
OPENVINO = ("openvino-genai==2026.4.1.0",)
OPENVINO_EXPORT = ("optimum-intel==2.2.0", "nncf==3.4.0")


class PeerError(Exception):
    """A contender that cannot take part, and why."""


def peer_python(work: Path, name: str, packages: Sequence[str]) -> Path:
    """The interpreter of a venv with these packages; made once, kept in ``work``.

    Raises:
        PeerError: the packages cannot be installed.
    """
    folder, wanted = work / "venvs" / name, "\n".join(packages)
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if done.exists() and done.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    borrow(folder)  # before pip looks for what is missing
    run([python, "-m", "pip", "install", "-q", *packages], work / f"{name}.log")
    done.write_text(wanted)
    return python


def borrow(folder: Path) -> None:
    """Let a venv find this environment's packages behind its own."""
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (next(folder.glob("lib/python*/site-packages")) / "borrowed.pth").write_text("\n".join(ours))


def llama_python(work: Path) -> Path:
    """The interpreter of a venv with llama.cpp, built for this machine's processor; its source is ``llama_source``."""
    folder = work / "venvs" / "llama.cpp"
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if not (done.exists() and done.read_text() == LLAMA_CPP + LLAMA_BUILD):
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        borrow(folder)
        log = work / "llama.cpp.log"
        pip = [python, "-m", "pip"]
        download = work / "llama.cpp"
        if not any(download.glob("*.tar.gz")):
            get = ["download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA_CPP, "-d", download]
            run([*pip, *get], log)
        if not any(path.is_dir() for path in download.glob("llama_cpp_python-*")):
            with tarfile.open(next(download.glob("*.tar.gz"))) as archive:
                archive.extractall(download, filter="data")
        kept = f"build-dir={work / 'llama.cpp' / 'build'}"  # a build that was stopped goes on from here
        run([*pip, "install", "-q", "-C", kept, llama_source(work)], log, {"CMAKE_ARGS": LLAMA_BUILD})
        done.write_text(LLAMA_CPP + LLAMA_BUILD)
    return python


def llama_source(work: Path) -> Path:
    """The unpacked source of llama-cpp-python; llama.cpp itself is in ``vendor``."""
    return next(path for path in (work / "llama.cpp").glob("llama_cpp_python-*") if path.is_dir())


def run(command: Sequence[str | Path], log: Path, variables: dict[str, str] | None = None) -> None:
    """Run a command to its end, its output in a file.

    Raises:
        PeerError: it failed; with its last line.
    """
    with log.open("a") as out:
        words = [str(word) for word in command]
        code = subprocess.run(words, stdout=out, stderr=out, env={**os.environ, **(variables or {})}, check=False)
    if code.returncode:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        raise PeerError(f"{lines[-1] if lines else words[0]} (all of it: {log})")
