"""A taker's side of a queue in Redis, for faces and photos alike: items come on lease, and go.

    take -> Taken ... beat ... -> complete | fail | hand_back

What the scripts do to the lanes is told in `scripts/lanes.lua`; this is what a process must remember between two of
them: which entries it has. When the reply to a `take` is lost, or nobody waits for it any more, what was handed out is
not known here; the next call gives it back first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.brokers.codec import encode_error
from service.brokers.keys import QueueKeys
from service.brokers.redis_connection import Argument, RedisConnection
from service.brokers.redis_listener import Listener
from service.core.errors import Abandoned
from service.core.metrics import Metrics
from service.core.types import FaceKey, Lane

POLL_S = 1.0  # how often who waits looks for itself: messages can be lost

ShowLane = Callable[[Lane, int, float | None], None]
"""Told what waits in a lane: items, and the Unix time when the oldest was admitted."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """An item on lease.

    Attributes:
        key: Job and index.
        lane: Its lane.
        waited_s: Seconds since the job was admitted.
        payload: What was stored for it; None when that is gone.
    """

    key: FaceKey
    lane: Lane
    waited_s: float
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How long a taker may be silent, and how often an item is handed out.

    Attributes:
        lease_s: Seconds without a sign of life after which an item is given to another taker.
        max_deliveries: Takers that may be lost over one item.
    """

    lease_s: float
    max_deliveries: int

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One of them is out of range.
        """
        if self.lease_s <= 0:
            raise ValueError(f"lease_s must be above 0, not {self.lease_s}")
        if self.max_deliveries < 1:
            raise ValueError(f"max_deliveries must be at least 1, not {self.max_deliveries}")


class Lanes:
    """One taker of a queue.

    Args:
        connection: The server.
        listener: News from other processes.
        keys: Names of the queue.
        terms: Of leases.
        metrics: Told about items that come back and that are given up.
        show_lane: Told what waits, whenever that is known.
    """

    def __init__(  # noqa: PLR0913 - the parts it joins
        self,
        connection: RedisConnection,
        listener: Listener,
        keys: QueueKeys,
        terms: LeaseTerms,
        *,
        metrics: Metrics,
        show_lane: ShowLane,
    ) -> None:
        self._connection = connection
        self._listener = listener
        self._keys = keys
        self._terms = terms
        self._metrics = metrics
        self._show_lane = show_lane
        self._names = keys.for_scripts()
        self._taker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: dict[FaceKey, bytes] = {}  # entries handed out to this taker
        self._sure = True  # whether those are all
        self._taking = asyncio.Lock()

    async def run(self, script: str, *arguments: Argument) -> Any:  # noqa: ANN401 - what a script returns
        """Run a script on the queue's names; it may run twice.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        return await self._connection.run(script, self._names, arguments)

    async def run_as_taker(self, script: str, *arguments: Argument) -> Any:  # noqa: ANN401
        """Run a script whose first argument is the taker.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        return await self.run(script, self._taker, *arguments)

    async def take(self, most: int, wait_s: float) -> list[Taken]:
        """Up to `most` items, as soon as there is one; none after `wait_s`. Cancelling the call loses none.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        if wait_s <= 0:
            return await self._take_now(most)
        ends_s = time.monotonic() + wait_s
        async with self._listener.listen(self._keys.bell, keep=True) as ear:
            while True:
                taken = await self._take_now(most)
                left_s = ends_s - time.monotonic()
                if taken or left_s <= 0 or ear.closed:
                    return taken
                rung = await ear.wait(min(left_s, POLL_S))
                if ear.closed or (not rung and time.monotonic() >= ends_s):
                    return []

    async def beat(self, steps_done: Mapping[FaceKey, int | None]) -> set[FaceKey]:
        """Renew leases; returns the items that this taker does not have.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        items = list(steps_done)
        if not items:
            return set()
        arguments: list[Argument] = []
        for job_id, index in items:
            steps = steps_done[job_id, index]
            arguments += (job_id, index, "" if steps is None else steps)
        unwanted = {items[position - 1] for position in await self.run_as_taker("beat", *arguments)}
        for key in unwanted:
            self.let_go(key)
        return unwanted

    async def hand_back(self, items: Sequence[FaceKey]) -> None:
        """Let items wait again, before all others.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        arguments: list[Argument] = []
        for job_id, index in items:
            self.let_go((job_id, index))
            arguments += (job_id, index)
        self.show(await self.run_as_taker("hand_back", *arguments))

    def let_go(self, key: FaceKey) -> None:
        """An item is no longer this taker's concern."""
        self._held.pop(key, None)

    async def leave(self) -> None:
        """Give back what this taker still has; without an answer the leases run out.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        self._held.clear()
        await self.run_as_taker("leave")

    async def depth(self) -> int:
        """Items waiting, all lanes.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        return self.show(await self.run("view"))

    def show(self, view: Sequence[Any]) -> int:
        """Pass on what a script says of the lanes; the number of waiting items."""
        waiting = 0
        for lane, items, oldest_us in zip((Lane.INTERACTIVE, Lane.BATCH), view[::2], view[1::2], strict=True):
            self._show_lane(lane, int(items), int(oldest_us) / 1e6 if oldest_us else None)
            waiting += int(items)
        return waiting

    async def _take_now(self, most: int) -> list[Taken]:
        """Run the script once; from its start to its end it is not known what this taker has."""
        async with self._taking:
            known = ["sure"] if self._sure else ["unsure", *self._held.values()]
            self._sure = False
            reply = await self._connection.run(
                "take",
                self._names,
                (
                    self._taker,
                    most,
                    max(1, round(self._terms.lease_s * 1000)),
                    self._terms.max_deliveries,
                    encode_error(self._abandoned()),
                    *known,
                ),
                again=False,
            )
            items, reclaimed, given_up, view = reply
            payloads = await self._connection.get_many([self._keys.payload(i[0].decode(), int(i[1])) for i in items])
            self._sure = True
            taken = []
            for (job, index, entry, lane, waited_ms), payload in zip(items, payloads, strict=True):
                key = (job.decode(), int(index))
                self._held[key] = entry
                taken.append(Taken(key, Lane(lane.decode()), float(waited_ms) / 1000, payload))
        self._tell(reclaimed, given_up)
        self.show(view)
        return taken

    def _tell(self, reclaimed: Sequence[int], given_up: Sequence[tuple[bytes, int]]) -> None:
        for lane, count in zip((Lane.INTERACTIVE, Lane.BATCH), reclaimed, strict=True):
            self._metrics.reclaimed(lane.value, count)
        for job, waited in given_up:
            logger.warning("job %s was given up", job.decode())
            self._metrics.dead("deliveries")
            for _ in range(waited):
                self._metrics.cancelled("queued")
        if any(reclaimed):
            logger.warning("%d items were taken from silent processes", sum(reclaimed))

    def _abandoned(self) -> Abandoned:
        return Abandoned(
            f"{self._terms.max_deliveries} processes took the work and were lost over it",
            hint="the photo may be at fault; try another",
        )
