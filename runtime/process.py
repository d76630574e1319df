"""What this process holds now: memory and open files, where the system tells (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

SELF = Path("/proc/self")


def resident_bytes() -> int | None:
    """Resident memory; None where the system does not tell."""
    try:
        pages = int((SELF / "statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_handles() -> int | None:
    """Open files, sockets and pipes; None where the system does not tell."""
    try:
        return len(list((SELF / "fd").iterdir()))
    except OSError:
        return None
