"""How far an export has come: counted by those who read and write, told to whoever asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


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
