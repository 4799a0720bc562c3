"""From the queue to the networks and back.

    broker -> take -> admit -> step ... step -> complete | fail -> broker

Faces of many photos are in flight at once; the worker knows none of those photos. It speaks to gateways through the
broker alone. While the broker does not answer, the faces in flight go on, and what has ended is told when it is back.
While the networks cannot be called no face is taken: other workers may have theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

from service.core.errors import Cancelled, DeadlineExceeded, DependencyUnavailable, InferenceFailed, ServiceError
from service.core.interfaces import Broker
from service.core.metrics import Metrics
from service.core.outages import OutageLog
from service.core.tasks import beside
from service.core.types import FaceJob, FaceKey, RestoredFace
from service.sampling.sampler import Outcome, Sampler

_IDLE_WAIT_S = 0.1  # how long a worker without faces may take to notice that it should stop
_PAUSE_S = 1.0  # after an error that is likely to come again at once
BEAT_S = 5.0  # a call of a large network on a small machine may take longer than a lease

logger = logging.getLogger(__name__)


class Worker:
    """Keeps the sampler's slots filled.

    Args:
        broker: The queue.
        sampler: Restores the faces; no other worker may use it.
        metrics: Told about faces that fail or are dropped.
        pause_s: Seconds to wait after an unexpected error, and while the broker does not answer.
        beat_s: Seconds between two signs of life while a network call lasts.
    """

    def __init__(
        self,
        broker: Broker,
        sampler: Sampler,
        *,
        metrics: Metrics,
        pause_s: float = _PAUSE_S,
        beat_s: float = BEAT_S,
    ) -> None:
        self._broker = broker
        self._sampler = sampler
        self._metrics = metrics
        self._pause_s = pause_s
        self._beat_s = beat_s
        self._outages = OutageLog(logger, "the queue")
        self._cut_off = False  # the networks were found not to answer
        self._networks = OutageLog(logger, "what runs the networks")
        self._held: dict[FaceKey, FaceJob] = {}  # in the sampler
        self._ended: deque[tuple[Outcome, str]] = deque()  # out of it, the broker not told yet; with their phase

    async def reaches_networks(self) -> bool:
        """Whether faces can be restored, as far as the last one tells."""
        return not self._cut_off

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and every face that was taken has ended; cancelled, hand back what is left.

        An unexpected error fails the faces in flight, never the worker.
        """
        async with beside(self._give_signs_of_life(), "beat"):
            try:
                while not stop.is_set() or self._held or self._ended:
                    await self._turn(stopping=stop.is_set())
            finally:
                await self._sampler.abandon()
                await self._hand_back()

    async def _turn(self, *, stopping: bool) -> None:
        try:
            await self._ask(stopping=stopping)
        except DependencyUnavailable as error:
            self._outages.away(error)
            if not self._held:
                await asyncio.sleep(self._pause_s)
        except Exception:  # noqa: BLE001 - the job boundary: the faces fail, the worker goes on
            await self._recover()
        try:
            if self._held:
                for outcome in await self._sampler.step():
                    self._end(outcome, phase="running")
            await self._show_previews()
            await self._tell()
        except Exception:  # noqa: BLE001 - the job boundary: the faces fail, the worker goes on
            await self._recover()

    async def _admit(self) -> None:
        """Fill the free slots; wait for faces only while there is nothing else to do."""
        too_early: list[FaceJob] = []
        for job in await self._take():
            if job.key in self._held:  # of an attempt before, not wanted any more, in a call that has not ended
                too_early.append(job)
                continue
            self._held[job.key] = job
            try:
                self._sampler.admit(job)
            except ServiceError as error:
                self._end(Outcome(job, error), phase="queued")
        if too_early:  # last: when the queue does not take them, the others that came are held
            await self._broker.hand_back(too_early)

    async def _ask(self, *, stopping: bool) -> None:
        """Take what there is room for, and hear what of it is no longer wanted."""
        if not stopping:
            await self._admit()
        if self._held:
            self._sampler.withdraw(await self._broker.beat(self._sampler.steps_done))
        if not self._ended and not self._cut_off:  # otherwise the queue may not have been asked
            self._outages.back()

    async def _take(self) -> list[FaceJob]:
        if self._cut_off and await self._sampler.ready():
            self._cut_off = False
            self._networks.back()
        if self._cut_off:
            if not self._held:
                await asyncio.sleep(self._pause_s)
            return []
        unheard = len(self._ended)  # faces the queue has not heard of are still ours
        if (room := self._sampler.free_slots - unheard) > 0:
            return await self._broker.take(room, 0 if self._held or self._ended else _IDLE_WAIT_S)
        if (room := self._sampler.free_interactive_slots - unheard) > 0:
            return await self._broker.take_interactive(room)
        return []

    def _end(self, outcome: Outcome, *, phase: str) -> None:
        del self._held[outcome.job.key]
        if isinstance(outcome.result, DependencyUnavailable):
            self._cut_off = True
            self._networks.away(outcome.result)
        self._ended.append((outcome, phase))

    async def _tell(self) -> None:
        """Bring what has ended to the broker; what it does not take now it gets at a later turn."""
        while self._ended:
            outcome, phase = self._ended[0]
            job, result = outcome.job, outcome.result
            try:
                if isinstance(result, RestoredFace):
                    await self._broker.complete(result)
                else:
                    await self._broker.fail(job, result)
            except DependencyUnavailable as error:
                self._outages.away(error)
                if not self._held:
                    await asyncio.sleep(self._pause_s)
                return
            self._ended.popleft()
            if isinstance(result, Cancelled | DeadlineExceeded):
                self._metrics.cancelled(phase)
            elif isinstance(result, ServiceError):
                self._metrics.faces(result.code)

    async def _show_previews(self) -> None:
        """Show what can be seen of faces; it is lost where the broker does not take it now."""
        if previews := self._sampler.take_previews():
            with contextlib.suppress(DependencyUnavailable):
                await self._broker.show(previews)

    async def _recover(self) -> None:
        """After an unexpected error: empty the sampler and fail its faces; a queue that cannot be told redelivers."""
        logger.exception("unexpected error; the faces in flight fail")
        await self._sampler.abandon()
        failed = self._left()
        self._held.clear()
        self._ended.clear()
        for job in failed:
            self._metrics.faces(InferenceFailed.code)
            with contextlib.suppress(Exception):
                await self._broker.fail(job, InferenceFailed("the worker met an unexpected error", hint="try again"))
        await asyncio.sleep(self._pause_s)

    async def _hand_back(self) -> None:
        """Let other workers have what is left."""
        left = self._left()
        if not left:
            return
        logger.warning("%d faces are handed back unfinished", len(left))
        with contextlib.suppress(ServiceError):  # their leases run out
            await self._broker.hand_back(left)

    def _left(self) -> list[FaceJob]:
        return [*self._held.values(), *(outcome.job for outcome, _ in self._ended)]

    async def _give_signs_of_life(self) -> None:
        """Renew the leases while a call of the networks lasts; the turns do it themselves between two calls."""
        while True:
            await asyncio.sleep(self._beat_s)
            try:
                self._sampler.withdraw(await self._broker.beat(self._sampler.steps_done))
            except ServiceError:
                continue
            except Exception:
                logger.exception("unexpected error while leases were renewed")
