"""Run a command and take down the memory it had at most, its time, and what it printed as JSON."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a command took.

    Attributes:
        code: exit code.
        seconds: wall clock.
        cpu_seconds: of all its threads.
        peak_rss: resident bytes at most, by the kernel's own high-water mark.
        peak_anonymous: of those, bytes no file stands behind; sampled, so short peaks may be missed.
        output: its last line of standard output, when that is JSON.
        errors: the end of its standard error.
    """

    code: int
    seconds: float
    cpu_seconds: float
    peak_rss: int
    peak_anonymous: int
    output: Any
    errors: str


def measure(command: Sequence[str | Path], *, log: Path) -> Measured:
    """Run a command to its end; its output goes to ``log``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    peak = anonymous = 0
    with log.open("w+") as out, log.with_suffix(".err").open("w+") as err:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err)
        while process.poll() is None:
            status = memory_of(process.pid)
            peak, anonymous = max(peak, status.get("VmHWM", 0)), max(anonymous, status.get("RssAnon", 0))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        lines, errors = out.read().strip().splitlines(), err.read()[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        output = json.loads(lines[-1]) if lines else None
    except ValueError:
        output = None
    return Measured(
        code=process.returncode,
        seconds=seconds,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        peak_rss=peak,
        peak_anonymous=anonymous,
        output=output,
        errors=errors,
    )


def memory_of(pid: int | str = "self") -> dict[str, int]:
    """Bytes of a process by the kernel's words for them: "VmRSS", "VmHWM", "RssAnon", ...; nothing when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines)
    return {row[0][:-1]: int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}
