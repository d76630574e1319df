"""Progress of an export: counts of bytes and tensors, and callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from palmtop.errors import OptionError
from palmtop.runtime.memory.machine import rss_bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """State of an export's progress.

    Attributes:
        step: name of the tensor that was read last, or of the current step.
        done_bytes: bytes of the checkpoint that were read, or known from an earlier attempt.
        total_bytes: bytes of the checkpoint that will be read in total.
        tensors: number of sets of tensors in the bundle's files so far.
    """

    step: str
    done_bytes: int
    total_bytes: int
    tensors: int


class Meter:
    """Counter of bytes and tensors; several threads may read at once.

    Attributes:
        done_bytes: bytes read so far.
    """

    def __init__(self, total_bytes: int = 0, tell: Callable[[Progress], None] | None = None) -> None:
        self.done_bytes = 0
        self._total = total_bytes
        self._tensors = 0
        self._tell = tell
        self._lock = threading.Lock()

    def read(self, name: str, count: int) -> None:
        """Count bytes of a tensor that were read from the checkpoint."""
        self._move(name, count, 0)

    def keep(self, name: str, count: int) -> None:
        """Count bytes of the checkpoint for a set that an earlier attempt has written."""
        self._move(name, count, 1)

    def finish(self, name: str) -> None:
        """Count a set of tensors that is in the file."""
        self._move(name, 0, 1)

    def _move(self, name: str, count: int, tensors: int) -> None:
        with self._lock:
            self.done_bytes += count
            self._tensors += tensors
            if self._tell is not None:
                self._tell(Progress(name, min(self.done_bytes, self._total), self._total, self._tensors))


def teller(progress: Callable[[Progress], None] | None, ram_bytes: int | None) -> Callable[[Progress], None] | None:
    """Return a callback that passes progress on, and stops the export if the process exceeds its memory limit."""
    if ram_bytes is None:
        return progress

    def tell(where: Progress) -> None:
        used = rss_bytes() or 0
        if used > ram_bytes:
            raise OptionError(
                "ram", f"found {ram_bytes / 1e6:.0f} MB, but '{where.step}' needs {used / 1e6:.0f} MB; expected more"
            )
        if progress is not None:
            progress(where)

    return tell


def step_teller(tell: Callable[[Progress], None] | None, total_bytes: int) -> Callable[[str], None] | None:
    """Return a callback for the steps of planning, before anything is counted."""
    return None if tell is None else lambda step: tell(Progress(step, 0, total_bytes, 0))
