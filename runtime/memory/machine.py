"""Memory of the machine, of the cgroups around this process, and of the process itself."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> int | None:
    """Return the bytes still available to this process: the least of MemAvailable and its cgroups' free bytes."""
    found = [free for free in (_meminfo_available(), *_cgroup_free()) if free is not None]
    if found:
        return min(found)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not reported on this system
        return None


def peak_rss_bytes() -> int | None:
    """Return the highest resident memory of this process so far, in bytes."""
    return _own("VmHWM:")


def rss_bytes() -> int | None:
    """Return the resident memory of this process, in bytes."""
    return _own("VmRSS:")


def _own(label: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:
        return None
    return _kilobytes(status, label)


def _meminfo_available() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text("ascii", "replace")
    except OSError:
        return None
    return _kilobytes(text, "MemAvailable:")


def _kilobytes(text: str, label: str) -> int | None:
    """Return the number after a label, converted from kilobytes to bytes."""
    found = (int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(label))
    return next(found, None)


def _cgroup_free() -> list[int]:
    """Free bytes of each cgroup above this process, version 2 and version 1; page cache counts as free."""
    free = []
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, files = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, files = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / name.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            limit, usage = (_number(group / file) for file in files)
            if limit is not None and usage is not None:
                free.append(max(0, limit - usage + _inactive_file(group / "memory.stat")))
    return free


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):  # no such file here, or "max"
        return None


def _inactive_file(path: Path) -> int:
    try:
        rows = [line.split() for line in path.read_text("ascii").splitlines()]
    except OSError:
        return 0
    return next((int(row[1]) for row in rows if row[0] in ("inactive_file", "total_inactive_file")), 0)
