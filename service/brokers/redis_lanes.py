"""A taker's side of a queue in Redis, for faces and photos alike: items come on lease, and go.

    take -> Taken ... beat ... -> (a script of its own) | fail | hand_back

What the scripts do to the lanes is told in `scripts/lanes.lua`; this is what a process must remember between two of
them: which entries it has. When the reply to a `take` is lost, or nobody waits for it any more, what was handed out is
not known here; the next call gives it back first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.brokers.codec import decode, encode
from service.brokers.keys import QueueKeys
from service.brokers.redis_connection import Argument, RedisConnection, as_ms
from service.brokers.redis_listener import PATIENCE_S, Listener
from service.core.errors import Abandoned, DeadlineExceeded, DependencyUnavailable, ServiceError
from service.core.jobs import Failure, PhotoJob
from service.core.metrics import Metrics
from service.core.types import FaceJob, FaceKey, Lane

POLL_S = 1.0  # how often who waits looks for itself: messages can be lost

ShowLane = Callable[[Lane, int, float | None], None]
"""Told what waits in a lane: items, and the Unix time when the oldest was admitted."""

OnFailed = Callable[[str], None]
"""Told of a job that was ended here because it failed, by the error's code."""

_Item = TypeVar("_Item", FaceJob, PhotoJob)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken(Generic[_Item]):
    """An item on lease.

    Attributes:
        item: What is to be done.
        waited_s: Seconds since its job was admitted.
    """

    item: _Item
    waited_s: float


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How long a taker may be silent, and how often an item is handed out.

    Attributes:
        lease_s: Seconds without a sign of life after which an item is given to another taker.
        max_deliveries: Takers that may be lost over one item.
        turns_s: How long an interactive job takes turns with others; then its next turn lasts to its last item.
    """

    lease_s: float
    max_deliveries: int
    turns_s: float = math.inf

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One of them is out of range.
        """
        if self.lease_s <= 0:
            raise ValueError(f"lease_s must be above 0, not {self.lease_s}")
        if self.max_deliveries < 1:
            raise ValueError(f"max_deliveries must be at least 1, not {self.max_deliveries}")


class Lanes(Generic[_Item]):
    """One taker of a queue, with the connections it needs.

    Every method raises DependencyUnavailable while the server does not answer.

    Args:
        kind: What the items are.
        url: Address of the server.
        keys: Names of the queue.
        terms: Of leases.
        metrics: Told about items that come back and that are given up.
        show_lane: Told what waits, whenever that is known.
        on_failed: Told of each job that this taker has let fail.

    Raises:
        ValueError: The address is not one.
    """

    def __init__(  # noqa: PLR0913 - what two queues differ in
        self,
        kind: type[_Item],
        url: str,
        keys: QueueKeys,
        terms: LeaseTerms,
        *,
        metrics: Metrics,
        show_lane: ShowLane,
        on_failed: OnFailed = lambda _code: None,
    ) -> None:
        self._kind: type[_Item] = kind
        self._keys = keys
        self._terms = terms
        self._metrics = metrics
        self._show_lane = show_lane
        self._on_failed = on_failed
        self._names = keys.for_scripts()
        self._connection = RedisConnection(url)
        self.listener = Listener(self._connection.make_connection)
        self.closed = False
        self._taker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: dict[FaceKey, bytes] = {}  # entries handed out to this taker
        self._sure = True  # whether those are all
        self._born = b""  # when the queue began, once that is known
        abandoned = Abandoned(
            f"{terms.max_deliveries} processes took the work and were lost over it",
            hint="the photo may be at fault; try another",
        )
        self._abandoned = encode(Failure.of(abandoned))
        self._taking = asyncio.Lock()

    async def run(self, script: str, *arguments: Argument) -> Any:  # noqa: ANN401 - what a script returns
        """Run a script on the queue's names; it may run twice."""
        return await self._connection.run(script, self._names, arguments)

    async def run_as_taker(self, script: str, *arguments: Argument) -> Any:  # noqa: ANN401
        """Run a script whose first argument is the taker."""
        return await self.run(script, self._taker, *arguments)

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values of keys, None where there is none."""
        return await self._connection.get_many(names)

    async def take(self, most: int, wait_s: float) -> list[Taken[_Item]]:
        """Up to `most` items, as soon as there is one; none after `wait_s`. Cancelling the call loses none.

        What cannot be read any more fails its job. After `close` there is nothing to take.
        """
        if self.closed:
            await asyncio.sleep(wait_s)  # who does not know yet must not spin
            return []
        try:
            return await self._take_within(most, wait_s)
        except DependencyUnavailable:
            if self.closed:  # meanwhile, and its connections with it
                return []
            raise

    async def take_interactive(self, most: int) -> list[Taken[_Item]]:
        """Up to `most` items of the interactive lane that are there now."""
        return [] if self.closed else await self._take_now(most, Lane.INTERACTIVE)

    async def beat(self, steps_done: Mapping[FaceKey, int | None]) -> set[FaceKey]:
        """Renew leases; returns the items that this taker does not have."""
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
        """Let items wait again, before all others."""
        arguments: list[Argument] = []
        for job_id, index in items:
            self.let_go((job_id, index))
            arguments += (job_id, index)
        self.show(await self.run_as_taker("hand_back", *arguments))

    async def fail(self, key: FaceKey, error: ServiceError, *, dead_for: str = "", sets_pace: bool = False) -> bool:
        """End a job by the failure of an item, if this taker has that.

        Args:
            key: The item.
            error: What became of it.
            dead_for: Reason of a dead letter; empty leaves none.
            sets_pace: Whether the time it took says how fast the queue moves.

        Returns:
            Whether this taker has ended the job.
        """
        self.let_go(key)
        pace = "counts" if sets_pace else ""
        again = "retryable" if error.retryable else ""
        told = encode(Failure.of(error))
        waited, is_end, view = await self.run_as_taker("fail", *key, told, dead_for, pace, again)
        self.withdrawn(waited)
        self.show(view)
        if is_end:
            self._on_failed(error.code)
        return bool(is_end)

    def withdrawn(self, items: int) -> None:
        """Items left the queue while they waited."""
        for _ in range(items):
            self._metrics.cancelled("queued")

    def let_go(self, key: FaceKey) -> None:
        """An item is no longer this taker's concern."""
        self._held.pop(key, None)

    async def depth(self) -> int:
        """Items waiting, all lanes."""
        return self.show(await self.run("view"))

    async def ready(self) -> bool:
        """Whether the queue can be used: it is not closed, and the server lets it be written, within a second."""
        return not self.closed and await self._connection.can_write(self._keys.state)

    async def close(self) -> None:
        """Take nothing more, wake every waiter of this process, give back what it has; jobs go on elsewhere."""
        if self.closed:
            return
        self.closed = True
        await self.listener.close()
        try:
            with contextlib.suppress(DependencyUnavailable):  # then the leases run out
                await self.run_as_taker("leave")
        finally:
            await self._connection.close()

    def show(self, view: Sequence[Any]) -> int:
        """Pass on what a script says of the lanes; the number of waiting items."""
        waiting = 0
        for lane, items, oldest_us in zip((Lane.INTERACTIVE, Lane.BATCH), view[::2], view[1::2], strict=True):
            self._show_lane(lane, int(items), int(oldest_us) / 1e6 if oldest_us else None)
            waiting += int(items)
        return waiting

    async def _take_within(self, most: int, wait_s: float) -> list[Taken[_Item]]:
        if wait_s <= 0:
            return await self._take_now(most)
        ends_s = time.monotonic() + wait_s
        async with self.listener.listen(self._keys.bell, patience_s=min(wait_s, PATIENCE_S), keep=True) as ear:
            while True:
                taken = await self._take_now(most)
                left_s = ends_s - time.monotonic()
                if taken or left_s <= 0 or ear.closed:
                    return taken
                rung = await ear.wait(min(left_s, POLL_S))
                if ear.closed or (not rung and time.monotonic() >= ends_s):
                    return []

    async def _take_now(self, most: int, only: Lane | None = None) -> list[Taken[_Item]]:
        """Run the script once; from its start until the items are ready it is not known what this taker has."""
        lease_ms = as_ms(self._terms.lease_s)
        turns_ms = "" if math.isinf(self._terms.turns_s) else round(self._terms.turns_s * 1000)
        terms: list[Argument] = [self._taker, most, lease_ms, self._terms.max_deliveries, self._abandoned, turns_ms]
        async with self._taking:
            terms += ("sure" if self._sure else "unsure", only or "", *self._held.values())
            self._sure = False
            found, reclaimed, given_up, view, born = await self._connection.run("take", self._names, terms, again=False)
            keys = [(job.decode(), int(index)) for job, index, *_ in found]
            payloads = await self.get_many([self._keys.payload(*key) for key in keys])
            taken, failed = {}, set()
            for key, (*_, entry, _lane, waited_ms), payload in zip(keys, found, payloads, strict=True):
                if key in self._held:  # it was taken from us while we could not be heard, and is ours again
                    continue
                try:
                    taken[key] = entry, Taken(self._read(payload), float(waited_ms) / 1000)
                except ServiceError as error:
                    await self._bury(key, error, "payload_lost" if payload is None else "payload_unreadable")
                    failed.add(key[0])
            taken = {key: found for key, found in taken.items() if key[0] not in failed}
            self._held.update((key, entry) for key, (entry, _) in taken.items())
            self._sure = True
        self._tell(reclaimed, given_up)
        self._compare(born)
        self.show(view)
        return [item for _, item in taken.values()]

    async def _bury(self, key: FaceKey, error: ServiceError, reason: str) -> None:
        if await self.fail(key, error, dead_for=reason):  # else it was withdrawn after it was taken
            logger.warning("job %s fails: %s", key[0], error.detail)
            self._metrics.dead(reason)

    def _read(self, payload: bytes | None) -> _Item:
        if payload is None:
            raise DeadlineExceeded("it waited so long that its picture was dropped", hint="send the photo again")
        item: _Item = decode(self._kind, payload)
        return item

    def _tell(self, reclaimed: Sequence[int], given_up: Sequence[tuple[bytes, int]]) -> None:
        for lane, count in zip((Lane.INTERACTIVE, Lane.BATCH), reclaimed, strict=True):
            self._metrics.reclaimed(lane.value, count)
        if any(reclaimed):
            logger.warning("%d items were taken from silent processes", sum(reclaimed))
        for job, waited in given_up:
            logger.warning("job %s was given up", job.decode())
            self._metrics.dead("deliveries")
            self._on_failed(Abandoned.code)
            self.withdrawn(waited)

    def _compare(self, born: bytes) -> None:
        """Tell once that the queue is another than before."""
        if self._born not in (b"", born):
            logger.warning(
                "the server has lost the queue of %s: what waited or was under way is gone", self._keys.queue
            )
        self._born = born


class OnLanes(Generic[_Item]):
    """What the queues of faces and of photos have in common."""

    _lanes: Lanes[_Item]

    async def depth(self) -> int:
        """Items waiting, all lanes; brings the gauges up to date."""
        return await self._lanes.depth()

    async def ready(self) -> bool:
        """Whether the queue can be used: it is not closed, and the server lets it be written, within a second."""
        return await self._lanes.ready()

    async def close(self) -> None:
        """Take nothing more, wake every waiter of this process, give back what it has. Jobs go on elsewhere."""
        await self._lanes.close()
