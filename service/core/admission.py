"""A bounded number of places and a bounded line in front of them: the rest is refused at once, never piled up."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from service.core.errors import Draining, QueueFull
from service.core.tracing import span_in_trace

_MAX_RETRY_AFTER_S = 60
_NEWEST_WEIGHT = 0.2


class Admission:
    """Lets work in while there is room; used within one event loop.

    Args:
        places: How much may be under way at once.
        max_waiting: How much may wait for a place.
        clock: Seconds, monotonic.
    """

    def __init__(self, places: int, max_waiting: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        if places < 1 or max_waiting < 0:
            raise ValueError("places must be at least 1 and max_waiting at least 0")
        self._places = places
        self._max_waiting = max_waiting
        self._clock = clock
        self._room = asyncio.Semaphore(places)
        self._active = 0
        self._waiting = 0
        self._mean_stay_s = 1.0
        self._closed = False
        self._left = asyncio.Event()

    @property
    def active(self) -> int:
        """Places taken."""
        return self._active

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return self._waiting

    @property
    def closed(self) -> bool:
        """Whether nothing new is let in."""
        return self._closed

    def close(self) -> None:
        """Let nothing new in; what is in, or in line, goes on."""
        self._closed = True

    async def emptied(self) -> None:
        """Wait until nothing is in and nothing in line; without `close`, newcomers may prolong that for ever."""
        while self._active or self._waiting:
            self._left.clear()
            await self._left.wait()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold one place for the duration of the block.

        Raises:
            Draining: `close` has been called.
            QueueFull: Places and line are full; `extra["retry_after_s"]` is estimated from recent stays.
        """
        self._check_room()
        self._waiting += 1
        try:
            await self._enter()
        finally:
            self._waiting -= 1
            self._left.set()
        with self._stay():
            yield

    @asynccontextmanager
    async def patient_place(self) -> AsyncIterator[None]:
        """The same for work that was let in elsewhere: it is never refused, and stands in nobody's way in the line."""
        await self._enter()
        with self._stay():
            yield

    async def _enter(self) -> None:
        if self._room.locked():
            with span_in_trace("admission"):
                await self._room.acquire()
        else:
            await self._room.acquire()

    def _check_room(self) -> None:
        if self._closed:
            raise Draining("the service is shutting down and takes no new photo", hint="try another instance")
        if self._room.locked() and self._waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._active} photos are under way and {self._waiting} wait",
                hint="come back after the time in Retry-After",
                retry_after_s=self._retry_after_s(),
            )

    @contextmanager
    def _stay(self) -> Iterator[None]:
        self._active += 1
        begin_s = self._clock()
        try:
            yield
        finally:
            self._mean_stay_s += _NEWEST_WEIGHT * (self._clock() - begin_s - self._mean_stay_s)
            self._active -= 1
            self._left.set()
            self._room.release()

    def _retry_after_s(self) -> int:
        """When a place should be free for a newcomer, given how long photos stayed lately."""
        ahead = self._waiting + 1
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(self._mean_stay_s * ahead / self._places)))
