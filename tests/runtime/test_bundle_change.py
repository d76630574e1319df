"""A change of a bundle counts whole or not at all, wherever it is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle import replacing as bundle_change
from palmtop.runtime.bundle.replacing import READY, STAGING, changed, finish_change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "weights").mkdir(parents=True)
    for name in ("one", "two", "weights/old"):
        (folder / name).write_text("before")
    return folder


WRITE = """
from palmtop.runtime.bundle.replacing import changed
def write(folder):
    with changed(folder) as change:
        for name in ("one", "two", "adapters/new"):
            path = change.staging / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("after")
        change.deleted.append("weights/old")
"""


def write(folder: Path) -> None:
    """Two files are replaced, one appears in a folder of its own, one goes."""
    names: dict[str, Any] = {}
    exec(WRITE, names)  # as source, for the process below is to import as little as possible
    names["write"](folder)


def state(folder: Path) -> str:
    """Which of the two it is; anything else is a mixture."""
    files = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}
    if files == {"one": "after", "two": "after", "adapters/new": "after"}:
        return "after"
    return "before" if files == dict.fromkeys(("one", "two", "weights/old"), "before") else f"a mixture: {files}"


def test_a_change_replaces_adds_and_deletes(folder: Path) -> None:
    write(folder)
    assert state(folder) == "after"
    assert not list(folder.glob(".*"))


def test_a_block_that_fails_leaves_nothing(folder: Path) -> None:
    with pytest.raises(RuntimeError), changed(folder) as change:
        (change.staging / "one").write_text("after")
        raise RuntimeError
    assert state(folder) == "before"
    assert not list(folder.glob(".*"))


KILLED = """
import os, sys
from pathlib import Path
calls = 0
def hook(event, arguments):
    global calls
    if event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.mkdir", "open"):
        if str(arguments[0]).startswith(sys.argv[1]):
            calls += 1
            if calls == int(sys.argv[2]):
                os._exit(9)
sys.addaudithook(hook)
write(Path(sys.argv[1]))
print(calls)
"""


def test_a_process_killed_at_any_step_leaves_the_old_or_the_new(folder: Path, tmp_path: Path) -> None:
    """The process ends, without cleaning up, at its first, second, ... step on the disk."""
    seen = set()
    for step in range(1, 60):
        copy = Path(shutil.copytree(folder, tmp_path / f"copy-{step}"))
        done = subprocess.run([sys.executable, "-c", WRITE + KILLED, copy, str(step)], capture_output=True, text=True)
        assert done.returncode in (0, 9), done.stderr
        finish_change(copy)
        for leftover in copy.glob(f"{STAGING}*"):  # hidden, and no file of the bundle
            shutil.rmtree(leftover)
        seen.add(state(copy))
        if done.returncode == 0:
            break
    assert seen == {"before", "after"}


def test_what_a_dead_process_left_is_swept_and_a_living_one_is_respected(folder: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (folder / f"{STAGING}{dead.stdout.strip()}").mkdir()
    write(folder)
    assert not list(folder.glob(f"{STAGING}*"))
    (folder / f"{STAGING}{os.getppid()}").mkdir()
    with pytest.raises(InputError, match=f"process {os.getppid()} is changing it"):
        write(folder)


def test_a_journal_that_leads_out_of_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (folder / READY).mkdir()
    (folder / READY / bundle_change.JOURNAL).write_text(json.dumps({"deleted": ["../mine"]}))
    with pytest.raises(BundleError, match="leads out of the bundle"):
        finish_change(folder)
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_link_is_not_followed_out_of_the_bundle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (folder / "adapters").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        write(folder)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("journal", ["", "{}", '{"deleted": 5}', '{"deleted": [1]}'])
def test_damaged_journals_are_named(journal: str, folder: Path) -> None:
    (folder / READY).mkdir()
    (folder / READY / bundle_change.JOURNAL).write_text(journal)
    with pytest.raises(BundleError, match=r"journal"):
        finish_change(folder)
