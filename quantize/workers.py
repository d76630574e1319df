"""Threads that process many blocks in order, with few blocks in memory. Independent of weights."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from palmtop.errors import OptionError

# bytes of float32: large enough that Python's overhead is small, small enough to stay near the caches
BLOCK_BYTES = 4 << 20
SMALLEST_BLOCK_BYTES = 256 << 10
WORKING_COPIES = 12  # float32 copies of its block that a thread holds at most, results that wait included

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Number of threads, and the size of the blocks they process.

    Numpy and file reads release the interpreter lock, so threads are enough.

    Attributes:
        threads: at least 1.
        block_bytes: bytes of float32 that a thread processes at a time.
    """

    threads: int = 1
    block_bytes: int = BLOCK_BYTES

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply ``function`` to every item, results in order; at most one item more than threads is in progress."""
        waiting = list(items)
        if self.threads == 1 or len(waiting) == 1:
            yield from map(function, waiting)
            return
        with ThreadPoolExecutor(self.threads, thread_name_prefix="palmtop-export") as pool:
            running: deque[Future[Result]] = deque()
            try:
                for item in waiting:
                    running.append(pool.submit(function, item))
                    if len(running) > self.threads:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                for future in running:
                    future.cancel()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan_workers(ram_bytes: int | None, used_bytes: int, threads: int | None = None) -> Workers:
    """Plan threads and blocks whose copies fit into the rest of a memory limit.

    Args:
        ram_bytes: limit of the whole process; None for no limit.
        used_bytes: bytes that the process holds already.
        threads: number of threads; None takes every usable core.

    Raises:
        OptionError: not even one thread with the smallest block fits.
    """
    count = threads or usable_cores()
    if ram_bytes is None:
        return Workers(threads=count)
    left = ram_bytes - used_bytes
    least = SMALLEST_BLOCK_BYTES * WORKING_COPIES
    if left < least:
        raise OptionError(
            "ram",
            f"found {ram_bytes / 1e6:.0f} MB, expected at least {(used_bytes + least) / 1e6:.0f} MB:"
            f" {used_bytes / 1e6:.0f} MB are in use already",
        )
    count = min(count, left // least)
    return Workers(threads=count, block_bytes=min(BLOCK_BYTES, left // count // WORKING_COPIES))
