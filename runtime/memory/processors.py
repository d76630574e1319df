"""Processor time that other processes of the machine took while something was measured."""

from __future__ import annotations

import os
from pathlib import Path
from time import process_time

BUSY = 0.1
"""Share of the machine's processor time from which on other work spoils a measurement."""
USED = (0, 1, 2, 5, 6, 7)  # columns of /proc/stat: user, nice, system, irq, softirq, steal
IDLE = (3, 4)  # idle, iowait


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OtherWork:
    """Measurement of other processes' work, from its construction to ``share``."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._begun = _ticks(stat)
        self._own = process_time()

    def share(self) -> float | None:
        """Return the share of the processors' time that others took, 0 to 1; None where it is not reported."""
        now = _ticks(self._stat)
        if self._begun is None or now is None:
            return None
        used, total = (after - before for after, before in zip(now, self._begun, strict=True))
        if total <= 0:
            return None
        own = (process_time() - self._own) * os.sysconf("SC_CLK_TCK")
        return min(1.0, max(0.0, (used - own) / total))


def _ticks(stat: Path) -> tuple[int, int] | None:
    """Ticks in which the processors worked, and all ticks, since the machine was started."""
    try:
        columns = [int(number) for number in stat.read_text("ascii").partition("\n")[0].split()[1:]]
        used = sum(columns[column] for column in USED)
        return used, used + sum(columns[column] for column in IDLE)
    except (OSError, ValueError, IndexError):
        return None
