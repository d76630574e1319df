"""A folder of saved conversations, by the name that clients give them, within a limit of bytes.

A file is only a cache: a request holds its whole dialogue, so a file that is refused or gone takes time and changes no
answer.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from starlette.datastructures import Headers

from palmtop.errors import InputError
from palmtop.runtime.bundle.option_checks import reason_of
from palmtop.runtime.saved.array_file import BESIDE
from palmtop.runtime.serve.wire.api_error import ApiError

logger = logging.getLogger(__name__)

HEADER = "x-session-id"
SUFFIX = ".conversation"
_IDENTITY = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def session_of(headers: Headers) -> str | None:
    """Return the session that a request names in ``X-Session-Id``; None without the header.

    Raises:
        ApiError: the name has other characters or is too long (400).
    """
    name = headers.get(HEADER)
    if name is not None and not _IDENTITY.fullmatch(name):
        expected = "1 to 128 letters, digits and _ . : -"
        raise ApiError(400, f"X-Session-Id: found {name!r:.80}, expected {expected}", param="X-Session-Id")
    return name


class SessionStore:
    """Files of conversations in one folder, the least recently used deleted first.

    Args:
        folder: the folder; made if it is missing.
        limit: most bytes of all files.

    Raises:
        InputError: the folder cannot be made or listed.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob(f"{BESIDE}*"):  # of a process that was killed
                left.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot hold sessions ({reason_of(error)}), expected a folder") from error
        self.trim()

    def path(self, model: str, session: str) -> Path:
        """Return the file of a model's session; its name tells neither."""
        return self.folder / (hashlib.sha256(f"{model}\0{session}".encode()).hexdigest()[:40] + SUFFIX)

    def touch(self, path: Path) -> None:
        """Make a file the most recently used one."""
        with suppress(OSError):
            os.utime(path)

    def trim(self) -> None:
        """Delete the least recently used files until the others fit into the limit."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):  # another process deletes, too
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            with suppress(OSError):
                path.unlink()
                total -= size
                logger.info("deleted the least recently used session")
