"""From the outbox of the queue of photos to the webhooks, and again after a while where that fails.

A notice may arrive twice (a delivery whose end could not be told), in any order, and up to a day late; its id is the
same each time. It is given up after the last attempt of the schedule. Of the attempts that are under way half are one
owner's at most, however slow his receivers are: his further notices wait in the outbox.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets

from service.core.errors import DependencyUnavailable
from service.core.interfaces import JobQueue
from service.core.jobs import Notice
from service.core.metrics import Metrics
from service.core.outages import OutageLog
from service.core.shares import OWNERS_SHARE, Shares
from service.core.tasks import until_stopped
from service.core.tracing import OUTCOME, consuming, note
from service.webhooks.sender import Delivery, NoticeSender

RETRY_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 28_800.0)
"""Seconds to the next attempt, by attempts before: a day in all."""
_LEAST_JITTER = 0.75  # receivers that failed together are not asked together again
_IDLE_WAIT_S = 0.5  # how long a courier without work may take to notice that it should stop
_PAUSE_S = 1.0
_HELD_BACK_S = 20.0  # longer than an attempt may take: there is room for another one then

logger = logging.getLogger(__name__)


class Courier:
    """Delivers notices, some at once.

    Args:
        jobs: Holds the notices.
        sender: Delivers one.
        metrics: Told how attempts end.
        at_once: Attempts under way together: a slow receiver must not hold up the others.
        grace_s: How long notices that are due may still be delivered after a stop.
        pause_s: Seconds to wait after an unexpected error, and while the queue does not answer.
    """

    def __init__(  # noqa: PLR0913 - times that a deployment and the tests set
        self,
        jobs: JobQueue,
        sender: NoticeSender,
        *,
        metrics: Metrics,
        at_once: int = 16,
        grace_s: float = 10.0,
        pause_s: float = _PAUSE_S,
    ) -> None:
        self._jobs = jobs
        self._sender = sender
        self._metrics = metrics
        self._room = asyncio.Semaphore(at_once)
        self._shares = Shares(math.ceil(OWNERS_SHARE * at_once))
        self._grace_s = grace_s
        self._pause_s = pause_s
        self._outages = OutageLog(logger, "the queue of notices")
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and no notice is due, or `grace_s` have passed; the rest stays in the queue."""
        await until_stopped(self._work(stop), stop, name="notices", grace_s=self._grace_s, begun=self._tasks)

    async def _work(self, stop: asyncio.Event) -> None:
        while True:
            await self._room.acquire()
            stopping = stop.is_set()
            notice = await self._next(0.0 if stopping else _IDLE_WAIT_S)
            if notice is not None and not self._shares.allow(notice.owner):
                await self._hold_back(notice)
                self._room.release()
                continue
            if notice is not None:
                self._shares.take(notice.owner)
                task = asyncio.create_task(self._deliver(notice), name="notice")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                continue
            self._room.release()
            if stopping:
                break
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _next(self, wait_s: float) -> Notice | None:
        try:
            notice = await self._jobs.due_notice(wait_s)
        except DependencyUnavailable as error:
            self._outages.away(error)
        except Exception:
            logger.exception("unexpected error while a notice was taken")
        else:
            self._outages.back()
            return notice
        await asyncio.sleep(self._pause_s)
        return None

    async def _hold_back(self, notice: Notice) -> None:
        try:
            await self._jobs.postpone_notice(notice, _HELD_BACK_S)
        except DependencyUnavailable as error:
            logger.warning("a notice cannot be held back, it waits for its lease: %s", error.detail)
        except Exception:
            logger.exception("unexpected error with notice %s", notice.notice_id)

    async def _deliver(self, notice: Notice) -> None:
        try:
            with consuming("courier", notice.origin, {"restore.attempt": notice.attempt}):
                await self._attempt(notice)
        finally:
            self._shares.give_back(notice.owner)
            self._room.release()

    async def _attempt(self, notice: Notice) -> None:
        try:
            delivery = await self._sent(notice)
            note({OUTCOME: delivery.value})
            await self._settle(notice, delivery)
        except DependencyUnavailable as error:
            logger.warning("the end of a delivery cannot be told, it will be repeated: %s", error.detail)
        except Exception:
            logger.exception("unexpected error with the end of notice %s", notice.notice_id)  # its lease runs out

    async def _sent(self, notice: Notice) -> Delivery:
        """How an attempt ended; one that met an unexpected error counts like any that failed, and is not the last."""
        try:
            return await self._sender.send(notice)
        except Exception:
            logger.exception("unexpected error with notice %s", notice.notice_id)
            return Delivery.FAILED

    async def _settle(self, notice: Notice, delivery: Delivery) -> None:
        if delivery is Delivery.FAILED and notice.attempt >= len(RETRY_S):
            logger.warning("notice %s is given up after %d attempts", notice.notice_id, notice.attempt + 1)
            self._metrics.notices("given_up")
            await self._jobs.settle_notice(notice, None)
            return
        self._metrics.notices(delivery.value)
        retry_in_s = None
        if delivery is Delivery.FAILED:
            retry_in_s = RETRY_S[notice.attempt] * secrets.SystemRandom().uniform(_LEAST_JITTER, 1.0)
        await self._jobs.settle_notice(notice, retry_in_s)
