"""From the queue to the networks and back.

    broker -> take -> admit -> step ... step -> complete | fail -> broker

Faces of many photos are in flight at once; the worker knows none of those photos. It speaks to gateways through the
broker alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from service.core.errors import Cancelled, DeadlineExceeded, InferenceFailed, ServiceError
from service.core.interfaces import Broker
from service.core.metrics import Metrics
from service.core.types import FaceJob, RestoredFace
from service.sampling.sampler import Outcome, Sampler

_IDLE_WAIT_S = 0.1  # how long a worker without faces may take to notice that it should stop
_PAUSE_S = 1.0  # after an unexpected error, so that one that persists does not keep a core busy

logger = logging.getLogger(__name__)


class Worker:
    """Keeps the sampler's slots filled.

    Args:
        broker: The queue.
        sampler: Restores the faces; no other worker may use it.
        metrics: Told about faces that fail or are dropped.
        pause_s: Seconds to wait after an unexpected error.
    """

    def __init__(self, broker: Broker, sampler: Sampler, *, metrics: Metrics, pause_s: float = _PAUSE_S) -> None:
        self._broker = broker
        self._sampler = sampler
        self._metrics = metrics
        self._pause_s = pause_s
        self._held: dict[int, FaceJob] = {}  # taken and not yet handed back, by identity

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and every face that was taken has been handed back.

        An unexpected error fails the faces in flight, never the worker.
        """
        try:
            while self._held or not stop.is_set():
                try:
                    if not stop.is_set():
                        await self._admit()
                    if self._held:
                        await self._drop_withdrawn()
                        await self._step()
                except Exception:
                    logger.exception("unexpected error; the faces in flight fail")
                    await self._fail_held()
                    await asyncio.sleep(self._pause_s)
        finally:
            await self._sampler.abandon()

    async def _admit(self) -> None:
        """Fill the free slots; wait for faces only while there is nothing else to do."""
        if not self._sampler.free_slots:
            return
        jobs = await self._broker.take(self._sampler.free_slots, 0 if self._held else _IDLE_WAIT_S)
        self._held |= {id(job): job for job in jobs}
        for job in jobs:
            try:
                self._sampler.admit(job)
            except ServiceError as error:
                await self._hand_back(Outcome(job, error), phase="queued")

    async def _drop_withdrawn(self) -> None:
        job_ids = sorted({job.job_id for job in self._held.values()})
        self._sampler.withdraw(await self._broker.cancelled(job_ids))

    async def _step(self) -> None:
        for outcome in await self._sampler.step():
            await self._hand_back(outcome, phase="running")

    async def _hand_back(self, outcome: Outcome, *, phase: str) -> None:
        job, result = outcome.job, outcome.result
        if isinstance(result, RestoredFace):
            await self._broker.complete(result)
        else:
            await self._broker.fail(job, result)
            if isinstance(result, Cancelled | DeadlineExceeded):
                self._metrics.cancelled(phase)
            else:
                self._metrics.faces(result.code)
        del self._held[id(job)]

    async def _fail_held(self) -> None:
        """Empty the sampler and fail its faces; a queue that cannot be told will deliver them again."""
        await self._sampler.abandon()
        jobs, self._held = list(self._held.values()), {}
        for job in jobs:
            self._metrics.faces(InferenceFailed.code)
            with contextlib.suppress(Exception):
                await self._broker.fail(job, InferenceFailed("the worker met an unexpected error", hint="try again"))
