"""Write a bundle folder beside its place and rename it in: there is a whole bundle or none."""

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
KEEP_ALL = "keep all"  # in place of a job: look, and change nothing
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)  # only writing ends in these
_writing: set[Path] = set()  # partial folders of this process: a process id may come back, in a container always does


@contextmanager
def written_beside(
    target: Path, *, overwrite: bool | None = False, keep: Path | None = None, job: str | None = None
) -> Iterator[Path]:
    """A folder to write into, renamed to ``target`` when the block ends well and removed when it does not.

    With a ``job``, what was written stays when the process is killed or interrupted, or the disk is full, and the
    next block with the same target and job begins with it; its journal belongs at ``journal_path(folder)``.

    Args:
        target: where the bundle shall be; a link is followed.
        overwrite: replace a bundle that is there, and nothing else; None where the user has no option to ask for it.
        keep: the checkpoint that is read; the target must not overlap it.
        job: hexadecimal digits that name the work; None begins anew each time.

    Raises:
        InputError: the target exists and may not be replaced, it cannot be written, or somebody else is at the job.
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
    """The real places of ``target`` and ``keep``, when a bundle may be written there.

    Unless nothing is to be touched, what other jobs and killed exports left beside it goes first.

    Raises:
        InputError: the target exists and may not be replaced, overlaps ``keep``, or cannot be looked at.
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
    """Where the journal of a job's folder is: beside it, or it would become part of the bundle."""
    return folder.with_name(JOURNAL_FILE)


def _lock(partial: Path, target: Path) -> IO[str] | None:
    """Hold the job as long as this process lives; nothing is left to clear when it is killed."""
    try:
        import fcntl
    except ImportError:  # Windows: two exports of one job at once are the user's to avoid
        return None
    file = (partial / LOCK_FILE).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(f"{target}: another process is exporting it, expected to be the only one") from error
    return file


def _is_held(partial: Path) -> bool:
    """Whether a living process is at this job."""
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
    """Rename a finished folder into its place; what was there goes only when that has worked."""
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
    shutil.rmtree(old, ignore_errors=True)  # what cannot go now is swept by a later export


def _beside(place: Path, kind: str, job: str | None = None) -> Path:
    return place.with_name(f".{place.name}.{kind}-{f'job-{job}' if job else os.getpid()}")


def _sweep(place: Path, job: str | None) -> None:
    """Remove what exports to this place left when they were killed; an old bundle without successor comes back.

    What another job has begun goes too, unless it is at work: the place can only become one bundle.
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
    """Whether the process that wrote beside this place still does."""
    if pid == os.getpid():
        return _beside(place, "partial") in _writing
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # not ours to signal, so it is there
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
