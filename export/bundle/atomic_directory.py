"""Atomic writing of a bundle folder: written to a temporary place beside it, then renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from palmtop.errors import CheckpointError, InputError
from palmtop.runtime.bundle.manifest import MANIFEST_FILE

JOURNAL_FILE, LOCK_FILE = "journal.jsonl", "lock"
KEEP_ALL = "keep all"  # in place of a job: check, and change nothing
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)  # endings of temporary names
_writing: set[Path] = set()  # partial folders of this process: process ids are reused, in a container always


@contextmanager
def written_beside(
    target: Path, *, overwrite: bool | None = False, keep: Path | None = None, job: str | None = None
) -> Iterator[Path]:
    """Yield a folder to write into; it is renamed to ``target`` at the end, or removed after an error.

    With a ``job``, the written files stay when the process is killed or interrupted, or the disk is full, and the next
    block with the same target and job continues with them; its journal belongs at ``journal_path(folder)``.

    Args:
        target: path of the bundle; a link is followed.
        overwrite: whether a bundle at this path may be replaced; None where the user has no option for it.
        keep: checkpoint that is read; the target must not overlap it.
        job: hexadecimal digits that name the work; None starts anew each time.

    Raises:
        InputError: the target exists and may not be replaced, cannot be written, or another process runs the job.
        CheckpointError: a file in ``keep`` could not be read.
    """
    place, source = refuse_target(target, overwrite=overwrite, keep=keep, job=job)
    partial = _beside(place, "partial", job)
    folder = partial if job is None else partial / "bundle"
    try:
        folder.mkdir(parents=True, exist_ok=job is not None)
    except OSError as error:
        raise InputError(f"{target.parent}: cannot write there ({_reason(error)})") from error
    lock = None if job is None else _lock(partial, target)
    _writing.add(partial)
    stays = False
    try:
        yield folder
        _refuse_replacing(target, place, overwrite)  # it may have appeared meanwhile
        _swap(folder, place)
    except OSError as error:
        if error.errno in NO_ROOM or _is_about(error, partial) or _is_about(error, place):
            stays = error.errno in NO_ROOM and job is not None and journal_path(folder).exists()
            hint = f"; {partial} keeps what is done, the same command goes on from there" if stays else ""
            raise InputError(f"{target}: could not be written ({_reason(error)}){hint}") from error
        if source is not None and _is_about(error, source):
            raise CheckpointError(f"{error.filename}: could not be read ({_reason(error)})") from error
        raise
    except (KeyboardInterrupt, SystemExit):
        stays = job is not None and journal_path(folder).exists()
        raise
    finally:
        if not stays:
            shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            lock.close()
        _writing.discard(partial)


def refuse_target(
    target: Path, *, overwrite: bool | None = False, keep: Path | None = None, job: str | None = KEEP_ALL
) -> tuple[Path, Path | None]:
    """Check that a bundle may be written, and return the real paths of ``target`` and ``keep``.

    Unless only checking, what other jobs and killed exports left beside it is removed first.

    Raises:
        InputError: the target exists and may not be replaced, overlaps ``keep``, or cannot be read.
    """
    try:
        place = target.resolve()
        source = None if keep is None else keep.resolve()
        _refuse_overlap(target, place, source)
        if job != KEEP_ALL:
            _sweep(place, job)
        _refuse_replacing(target, place, overwrite)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise InputError(f"{target}: cannot be used ({_reason(error)}), expected a new folder") from error
    return place, source


def journal_path(folder: Path) -> Path:
    """Return the path of the journal of a job's folder: beside it, or it would become part of the bundle."""
    return folder.with_name(JOURNAL_FILE)


def _lock(partial: Path, target: Path) -> IO[str] | None:
    """Hold a lock on the job as long as this process lives; a kill releases it."""
    try:
        import fcntl
    except ImportError:  # Windows: users have to avoid two exports of one job at once
        return None
    file = (partial / LOCK_FILE).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(f"{target}: another process is exporting it, expected to be the only one") from error
    return file


def _is_held(partial: Path) -> bool:
    """Return whether a living process runs this job."""
    try:
        with (partial / LOCK_FILE).open("a") as file:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ImportError):
        return False
    return False


def _refuse_overlap(target: Path, place: Path, source: Path | None) -> None:
    if Path.cwd().is_relative_to(place):
        raise InputError(f"{target}: is or holds the current folder, expected a new folder")
    if source is not None and (place.is_relative_to(source) or source.is_relative_to(place)):
        raise InputError(f"{target}: overlaps the checkpoint {source}, expected a folder outside it")


def _refuse_replacing(target: Path, place: Path, overwrite: bool | None) -> None:
    if not place.exists():
        return
    if not place.is_dir():
        raise InputError(f"{target}: is a file, expected a new folder")
    if not overwrite:
        hint = "" if overwrite is None else " (--force replaces a bundle)"
        raise InputError(f"{target}: already exists, expected a new folder{hint}")
    is_checkpoint = (place / "config.json").exists() and any(place.glob("*.safetensors"))
    if is_checkpoint or not (place / MANIFEST_FILE).is_file():
        found = "is a checkpoint" if is_checkpoint else "is not a bundle"
        raise InputError(f"{target}: {found}; --force replaces only bundles")


def _swap(partial: Path, place: Path) -> None:
    """Rename a finished folder into its place; the previous one is removed only after that."""
    if not place.exists():
        partial.rename(place)
        return
    old = _beside(place, "old")
    try:
        place.rename(old)
        partial.rename(place)
    except BaseException:  # SystemExit and KeyboardInterrupt as well
        if old.exists() and not place.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)  # a folder that cannot be removed now is removed by a later export


def _beside(place: Path, kind: str, job: str | None = None) -> Path:
    return place.with_name(f".{place.name}.{kind}-{f'job-{job}' if job else os.getpid()}")


def _sweep(place: Path, job: str | None) -> None:
    """Remove temporary folders of killed exports to this place; an old bundle without successor is moved back.

    Folders of other jobs are removed too, unless they are running: the place can only become one bundle.
    """
    if os.name == "nt" or not place.parent.is_dir():  # os.kill(pid, 0) would send Ctrl-C on Windows
        return
    pattern = re.compile(rf"\.{re.escape(place.name)}\.(partial|old)-(?:([0-9]{{1,10}})|job-([0-9a-f]+))")
    for folder in sorted(place.parent.iterdir()):
        match = pattern.fullmatch(folder.name)
        if match is None or folder.is_symlink() or not folder.is_dir():
            continue
        if match[3] == job if match[3] else _is_alive(int(match[2]), place):
            continue
        if match[3] and _is_held(folder):
            continue
        if match[1] == "old" and not place.exists():
            folder.rename(place)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int, place: Path) -> bool:
    """Return whether the process that wrote a temporary folder still runs."""
    if pid == os.getpid():
        return _beside(place, "partial") in _writing
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # the process exists, but belongs to another user
        return True
    return True


def _is_about(error: OSError, folder: Path) -> bool:
    if not isinstance(error.filename, str):
        return False
    return Path(error.filename).absolute().is_relative_to(folder) or Path(error.filename).resolve().is_relative_to(
        folder
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
