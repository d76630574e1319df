"""Stand-ins for a checkpoint's files: a Git LFS pointer or a web page."""

from __future__ import annotations

import re
from pathlib import Path

from palmtop.errors import CheckpointError
from palmtop.runtime.bundle.opening import LFS_POINTER

LFS_SIZE = re.compile(rb"^size (\d{1,19})", re.MULTILINE)
WEB_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html|head)\b", re.IGNORECASE)
START_BYTES = 512  # a pointer is shorter


def refuse_stand_in(path: Path, start: bytes) -> None:
    """Refuse a stand-in for a file that was never downloaded.

    Args:
        path: path of the file, for the error.
        start: its first ``START_BYTES``.

    Raises:
        CheckpointError: the file is a Git LFS pointer or a web page.
    """
    if start.startswith(LFS_POINTER):
        size = LFS_SIZE.search(start)
        of = "" if size is None else f" to a file of {int(size[1])} bytes"
        raise CheckpointError(
            f"{path}: is a Git LFS pointer{of}, expected the file itself: fetch it with 'git lfs pull'"
        )
    if WEB_PAGE.match(start):
        raise CheckpointError(f"{path}: is a web page, expected the file itself: download it again")
