"""A bounded number of places and a bounded line in front of them: the rest is refused at once, never piled up.

A line that is short in number may be long in time, so who would probably not be served in time is refused as well: the
pace at which photos leave while there are several tells how long the line takes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from service.core.errors import Draining, QueueFull
from service.core.shares import Shares
from service.core.tracing import span_in_trace

_MAX_RETRY_AFTER_S = 60
_NEWEST_WEIGHT = 0.2
_REMEMBERED = 0.95  # of the pace, at each departure from a crowd: some twenty photos
_FEW = 4  # so many are let in however slow it goes: fewer would not show the pace of many
_SLOWEST_TO_MEAN = 4.0  # of a hundred photos with 1 to 20 faces; `make loadtest` measures it (docs/PERFORMANCE.md)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a `Pace` has counted up to a moment.

    Attributes:
        at_s: The moment.
        crowded_s: Time in which there were several.
        share_s: What of that time one of them had to himself, who was there all the while.
    """

    at_s: float
    crowded_s: float
    share_s: float


class Pace:
    """How fast work leaves while there is more than a little of it.

    Each moment is divided among those who are present then: what somebody had of it until he left is the time that he
    took, however many were served side by side. The time between two departures would say so too, but not of the first
    that leave a crowd that has just come: all of it has been under way since, and nearly done is not gone.

    Args:
        clock: Seconds, monotonic.

    Attributes:
        present: Those who have come and not left.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now = _Counted(clock(), 0.0, 0.0)
        self.present = 0
        self._taken_s = 0.0
        self._departures = 0.0

    @property
    def interval_s(self) -> float:
        """Seconds between two departures; 0 while that is not known."""
        return self._taken_s / self._departures if self._departures else 0.0

    @contextmanager
    def stay(self) -> Iterator[None]:
        """Be there for the duration of the block."""
        self._count()
        self.present += 1
        arrival = self._now
        try:
            yield
        finally:
            self._leave(arrival)

    def _leave(self, arrival: _Counted) -> None:
        self._count()
        self.present -= 1
        stay_s, crowded_s = self._now.at_s - arrival.at_s, self._now.crowded_s - arrival.crowded_s
        if crowded_s > 0:
            departed = crowded_s / stay_s
            remembered = _REMEMBERED**departed
            self._taken_s = remembered * self._taken_s + self._now.share_s - arrival.share_s
            self._departures = remembered * self._departures + departed

    def _count(self) -> None:
        now_s, then = self._clock(), self._now
        crowded_s = now_s - then.at_s if self.present >= _FEW else 0.0
        share_s = crowded_s / max(1, self.present)
        self._now = _Counted(now_s, then.crowded_s + crowded_s, then.share_s + share_s)


class Admission:
    """Lets work in while there is room; used within one event loop.

    Args:
        places: How much may be under way at once, at least 1.
        max_waiting: How much may wait for a place.
        objective_s: Who would probably take longer is refused.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        places: int,
        max_waiting: int,
        *,
        objective_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._objective_s = objective_s
        self._pace = Pace(clock)  # of those in a place or in line; patient ones stand in nobody's way
        self._max_waiting = max_waiting
        self._clock = clock
        self._room = asyncio.Semaphore(places)
        self._active = 0
        self._shares = Shares((places + max_waiting) // 2)
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

    def check_open(self) -> None:
        """Take nothing that nobody will work on.

        Raises:
            Draining: `close` has been called.
        """
        if self._closed:
            raise Draining("the service is shutting down and takes no new photo", hint="try another instance")

    async def emptied(self) -> None:
        """Wait until nothing is in and nothing in line; without `close`, newcomers may prolong that for ever."""
        while self._active or self._waiting:
            self._left.clear()
            await self._left.wait()

    @asynccontextmanager
    async def place(self, owner: str = "") -> AsyncIterator[None]:
        """Hold one place for the duration of the block; a named owner has half of them and of the line at most.

        Raises:
            Draining: `close` has been called.
            QueueFull: Places and line are full, or the line takes too long; `extra["retry_after_s"]` is estimated from
                recent stays.
        """
        self._check_room(owner)
        with self._shares.held(owner), self._pace.stay():
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

    def _check_room(self, owner: str) -> None:
        self.check_open()
        if self._room.locked() and self._waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._active} photos are under way and {self._waiting} wait",
                hint="come back after the time in Retry-After",
                retry_after_s=self._retry_after_s(),
            )
        expected_s = (self._pace.present + 1) * self._pace.interval_s
        excess_s = _SLOWEST_TO_MEAN * expected_s - self._objective_s
        if self._pace.present >= _FEW and excess_s > 0:
            raise QueueFull(
                f"{self._pace.present} photos are ahead, and another one would take about {expected_s:.0f} s or longer",
                hint="come back after the time in Retry-After",
                retry_after_s=told_wait_s(excess_s / _SLOWEST_TO_MEAN),
            )
        if not self._shares.allow(owner):
            raise QueueFull(
                f"{self._shares.of(owner)} photos of yours are under way",
                hint="come back after the time in Retry-After, and send fewer at once",
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
        return told_wait_s(self._mean_stay_s * ahead / self._places)


def told_wait_s(wait_s: float) -> int:
    """A wait as those who come too early are told it: whole seconds, from 1 to a minute."""
    return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s)))
