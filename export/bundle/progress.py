"""How far an export has come: counted by those who read and write, told to whoever asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from palmtop.errors import InputError
from palmtop.runtime.memory.machine import rss_bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an export has come.

    Attributes:
        step: the tensor that was read last, or what is being done.
        done_bytes: of the checkpoint, read or known from an earlier try.
        total_bytes: of all it will read.
        tensors: sets of tensors in the bundle's files so far.
    """

    step: str
    done_bytes: int
    total_bytes: int
    tensors: int


class Meter:
    """Counts bytes and tensors; several threads may read at once.

    Attributes:
        done_bytes: read so far.
    """

    def __init__(self, total_bytes: int = 0, tell: Callable[[Progress], None] | None = None) -> None:
        self.done_bytes = 0
        self._total = total_bytes
        self._tensors = 0
        self._tell = tell
        self._lock = threading.Lock()

    def read(self, name: str, count: int) -> None:
        """Bytes of a tensor were read from the checkpoint."""
        self._move(name, count, 0)

    def keep(self, name: str, count: int) -> None:
        """A set is there from an earlier try; these bytes of the checkpoint need not be read again."""
        self._move(name, count, 1)

    def finish(self, name: str) -> None:
        """A set of tensors is in the file."""
        self._move(name, 0, 1)

    def _move(self, name: str, count: int, tensors: int) -> None:
        with self._lock:
            self.done_bytes += count
            self._tensors += tensors
            if self._tell is not None:
                self._tell(Progress(name, min(self.done_bytes, self._total), self._total, self._tensors))


def teller(progress: Callable[[Progress], None] | None, ram_bytes: int | None) -> Callable[[Progress], None] | None:
    """Passes progress on, and stops when the process has outgrown its limit after all."""
    if ram_bytes is None:
        return progress

    def tell(where: Progress) -> None:
        used = rss_bytes() or 0
        if used > ram_bytes:
            raise InputError(
                f"ram is {ram_bytes / 1e6:.0f} MB, but '{where.step}' needs {used / 1e6:.0f} MB; expected more"
            )
        if progress is not None:
            progress(where)

    return tell


def step_teller(tell: Callable[[Progress], None] | None, total_bytes: int) -> Callable[[str], None] | None:
    """Tells what planning is at, before anything is counted."""
    return None if tell is None else lambda step: tell(Progress(step, 0, total_bytes, 0))
