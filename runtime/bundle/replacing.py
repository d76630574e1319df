"""Atomic change of a bundle's files: a kill at any moment leaves the old bundle or the new one.

New files are written into a hidden folder inside the bundle. One rename makes that folder final; from then on the
change is valid, and the change itself, or the next process that opens the bundle, moves the files into place. Uses
folders and names only.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from palmtop.errors import BundleError, InputError

STAGING = ".change-"  # followed by the process id; the dot marks it as no file of the bundle
READY = ".changed"
JOURNAL = "journal.json"
_mine: set[Path] = set()  # staging folders of this process: process ids are reused


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is being written.

    Attributes:
        folder: folder of the bundle.
        staging: folder for new files, under their paths in the bundle.
        deleted: paths of files to delete.
    """

    folder: Path
    staging: Path
    deleted: list[str] = field(default_factory=list)


@contextmanager
def changed(folder: Path) -> Iterator[Change]:
    """Yield a change that becomes valid when the block ends, and leaves nothing after an error.

    Raises:
        InputError: the bundle cannot be written, or another process is changing it.
        BundleError: an earlier change cannot be finished.
    """
    finish_change(folder)
    staging = folder / f"{STAGING}{os.getpid()}"
    change = Change(folder, staging)
    try:
        _claim(folder, staging)
        yield change
        (staging / JOURNAL).write_text(json.dumps({"deleted": change.deleted}), "utf-8")
        _flush(staging)
        staging.rename(folder / READY)
    except OSError as error:
        raise InputError(f"{folder}: cannot be changed ({error.strerror or error})") from error
    finally:
        if staging in _mine:
            _mine.discard(staging)
            shutil.rmtree(staging, ignore_errors=True)
    finish_change(folder)


def finish_change(folder: Path) -> None:
    """Move the files of a valid change into their places; do nothing without one.

    Raises:
        BundleError: the folder cannot be written, or the change names a path outside it.
    """
    ready = folder / READY
    try:
        if not ready.is_dir():
            return
        if not (ready / JOURNAL).is_file():  # all was moved, and then the folder half removed
            shutil.rmtree(ready)
            return
        deleted = _read_journal(ready / JOURNAL)
        for path in sorted(p for p in ready.rglob("*") if p.is_file() and p != ready / JOURNAL):
            target = _inside(folder, path.relative_to(ready).as_posix())
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        for name in deleted:
            _inside(folder, name).unlink(missing_ok=True)
        shutil.rmtree(ready)
    except FileNotFoundError:
        return  # another process has finished it meanwhile
    except OSError as error:
        raise BundleError(
            f"{folder}: holds a change that was interrupted and cannot be finished ({error.strerror or error}),"
            " expected a folder that can be written"
        ) from error


def _read_journal(path: Path) -> list[str]:
    try:
        deleted = json.loads(path.read_text("utf-8"))["deleted"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: is not the journal of a change ({error})") from error
    if not isinstance(deleted, list) or not all(isinstance(name, str) for name in deleted):
        raise BundleError(f"{path}: deleted is {deleted!r:.60}, expected a list of names")
    return deleted


def _inside(folder: Path, name: str) -> Path:
    target = folder / name
    if not target.parent.resolve().is_relative_to(folder.resolve()) or target.name in ("", ".", ".."):
        raise BundleError(f"{folder}: the interrupted change names '{name}', which leads out of the bundle")
    return target


def _claim(folder: Path, staging: Path) -> None:
    """Make the staging folder; of two processes at a time, each sees the other's."""
    if staging in _mine:
        raise InputError(f"{folder}: is being changed by this process, expected one change at a time")
    shutil.rmtree(staging, ignore_errors=True)  # of an ended process with the same id
    staging.mkdir()
    _mine.add(staging)
    for other in folder.glob(f"{STAGING}*"):
        if other == staging:
            continue
        if _is_alive(other.name.removeprefix(STAGING)):
            raise InputError(f"{folder}: process {other.name.removeprefix(STAGING)} is changing it, try again later")
        shutil.rmtree(other, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    if os.name == "nt" or not pid.isdecimal():  # os.kill(pid, 0) would send Ctrl-C on Windows
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # the process exists, but belongs to another user
        return True
    return True


def _flush(folder: Path) -> None:
    """Flush bytes to the disk before the rename that makes them valid."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
