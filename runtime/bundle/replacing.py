"""Change files of a bundle so that a kill at any moment leaves the old one or the new one, never a mixture.

New files are written into a hidden folder inside the bundle. One rename makes that folder final; from then on the
change counts, and whoever opens the bundle next moves its files into place, as the change itself does at once.
Knows folders and names; knows no manifest.
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

STAGING = ".change-"  # and the process id; a dot keeps it from being taken for a file of the bundle
READY = ".changed"
JOURNAL = "journal.json"
_mine: set[Path] = set()  # staging folders of this process: a process id may come back


@dataclass(frozen=True, slots=True)
class Change:
    """A change being written.

    Attributes:
        folder: the bundle.
        staging: where new files go, under the paths they shall have in the bundle.
        deleted: paths of files that shall go.
    """

    folder: Path
    staging: Path
    deleted: list[str] = field(default_factory=list)


@contextmanager
def changed(folder: Path) -> Iterator[Change]:
    """A change that counts when the block ends well, and leaves nothing when it does not.

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
    """Move the files of a change that counts into their places; nothing where there is none.

    Raises:
        BundleError: the folder cannot be written, or the change names a place outside it.
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
        return  # somebody else has finished it meanwhile
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
    """Make the staging folder; two processes that try at once see each other's."""
    if staging in _mine:
        raise InputError(f"{folder}: is being changed by this process, expected one change at a time")
    shutil.rmtree(staging, ignore_errors=True)  # of a process that had our id
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
    except OSError:  # not ours to signal, so it is there
        return True
    return True


def _flush(folder: Path) -> None:
    """Bytes reach the disk before the rename that makes them count."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
