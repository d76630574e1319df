"""Order of a model's requests: one at a time, clients in rotation, a queue of limited length."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from palmtop.runtime.serve.wire.api_error import ApiError

LONGEST_RETRY_S = 60


class Turns:
    """Queue of requests before one model.

    Clients take turns; the requests of one client keep their order.

    Args:
        limit: most requests that may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._mean_s = 1.0
        self.is_busy = False

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return sum(len(line) for line in self._lines.values())

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it until the block is left.

        Raises:
            ApiError: the queue is full.
        """
        await self._enter(client)
        started = monotonic()
        try:
            yield
        finally:
            self._mean_s += 0.2 * (monotonic() - started - self._mean_s)
            self._leave()

    async def _enter(self, client: str) -> None:
        if not self.is_busy:
            self.is_busy = True
            return
        if self.waiting >= self._limit:
            retry_s = min(LONGEST_RETRY_S, max(1, math.ceil(self._mean_s * self.waiting)))
            message = f"the model is answering and {self.waiting} requests wait, which is the most that may"
            raise ApiError(503, message, code="overloaded", retry_after_s=retry_s)
        place = asyncio.get_running_loop().create_future()
        self._lines.setdefault(client, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._drop(client, place)
            else:  # the turn came in the same moment
                self._leave()
            raise

    def _drop(self, client: str, place: asyncio.Future[None]) -> None:
        line = self._lines.get(client)
        if line is not None and place in line:
            line.remove(place)
            if not line:
                del self._lines[client]

    def _leave(self) -> None:
        while self._lines:
            client, line = self._lines.popitem(last=False)
            place = line.popleft()
            if line:
                self._lines[client] = line  # behind all others
            if not place.done():
                place.set_result(None)
                return
        self.is_busy = False
