"""Do the same work on many blocks with all cores, in order, with few blocks in memory. Knows no weights."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from palmtop.errors import InputError

BLOCK_BYTES = 4 << 20  # of float32: large enough that Python's share is small, small enough to stay near the caches
SMALLEST_BLOCK_BYTES = 256 << 10
WORKING_COPIES = 12  # float32 copies of its block that a thread holds at its peak, the waiting results included

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many threads share the work, and how large their blocks are.

    Numpy and file reads release the interpreter lock, so threads are enough.

    Attributes:
        threads: at least 1.
        block_bytes: of float32 a thread works on at a time.
    """

    threads: int = 1
    block_bytes: int = BLOCK_BYTES

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``function`` of every item, in the items' order; at most one more than the threads is under way."""
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
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan_workers(ram_bytes: int | None, used_bytes: int, threads: int | None = None) -> Workers:
    """Threads and blocks whose copies fit into what is left of a memory limit.

    Args:
        ram_bytes: the limit for the whole process, None for no limit.
        used_bytes: what the process holds already.
        threads: None takes every core this process may use.

    Raises:
        InputError: not even one thread with the smallest block fits.
    """
    count = threads or usable_cores()
    if ram_bytes is None:
        return Workers(threads=count)
    left = ram_bytes - used_bytes
    least = SMALLEST_BLOCK_BYTES * WORKING_COPIES
    if left < least:
        raise InputError(
            f"ram is {ram_bytes / 1e6:.0f} MB, expected at least {(used_bytes + least) / 1e6:.0f} MB:"
            f" {used_bytes / 1e6:.0f} MB are in use already"
        )
    count = min(count, left // least)
    return Workers(threads=count, block_bytes=min(BLOCK_BYTES, left // count // WORKING_COPIES))
