"""Refusal of a Git LFS pointer or a web page in place of a checkpoint's file."""

from __future__ import annotations

from pathlib import Path

from palmtop.errors import CheckpointError
from palmtop.runtime.bundle.stand_ins import stand_in


def refuse_stand_in(path: Path, start: bytes) -> None:
    """Refuse a stand-in for a file that was never downloaded.

    Args:
        path: path of the file, for the error.
        start: its first ``START_BYTES``.

    Raises:
        CheckpointError: the file is a Git LFS pointer or a web page.
    """
    if (found := stand_in(start)) is not None:
        raise CheckpointError(f"{path}: {found}")
