"""Notices that have yet to be delivered, in Redis: due, on lease, due again.

The scripts that end a job put what its notice is made of into the outbox; the notice is made when it is due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from service.brokers.codec import decode
from service.brokers.keys import QueueKeys
from service.brokers.outbox import tell_given_up
from service.brokers.redis_connection import as_ms
from service.brokers.redis_lanes import POLL_S, Lanes
from service.brokers.redis_listener import PATIENCE_S
from service.core.jobs import Failure, JobState, Notice, PhotoJob
from service.core.metrics import Metrics
from service.core.notices import closing_notice
from service.core.origin import Origin


class RedisOutbox:
    """Hands out each notice when its time has come.

    Every method raises DependencyUnavailable while the server does not answer.

    Args:
        lanes: The queue whose jobs' ends are told.
        keys: Its names.
        metrics: Told of notices that are given up.
        lease_s: After how long a notice that was handed out and not settled is handed out again.
        max_notices: Most of them; the oldest of the owner who has most makes room, when the next one is asked for.
    """

    def __init__(
        self, lanes: Lanes[PhotoJob], keys: QueueKeys, metrics: Metrics, *, lease_s: float, max_notices: int
    ) -> None:
        self._lanes = lanes
        self._keys = keys
        self._metrics = metrics
        self._lease_ms = as_ms(lease_s)
        self._max_notices = max_notices

    async def due(self, wait_s: float) -> Notice | None:
        """The notice that has been due longest, on lease; None after `wait_s` without one, or when closed."""
        if self._lanes.closed:
            await asyncio.sleep(wait_s)  # a courier that does not know yet must not spin
            return None
        ends_s = time.monotonic() + wait_s
        async with self._lanes.listener.listen(self._keys.mail, patience_s=min(wait_s, PATIENCE_S), keep=True) as ear:
            while not ear.closed:
                kind, *found = await self._lanes.run("due_notice", self._lease_ms, self._max_notices)
                if kind == b"due":
                    return _notice_of(found)
                if kind == b"dropped":
                    for notice_id in found:
                        tell_given_up(notice_id.decode(), self._metrics)
                    continue
                left_s = ends_s - time.monotonic()
                if left_s <= 0:
                    break
                due_in_s = int(found[0]) / 1000 if found else POLL_S
                await ear.wait(min(left_s, due_in_s, POLL_S))
        return None

    async def settle(self, notice: Notice, retry_in_s: float | None) -> None:
        """Drop a notice, or let it come due again as the next attempt; one that is gone stays gone."""
        await self._put_back(notice, notice.attempt + 1, retry_in_s)

    async def postpone(self, notice: Notice, wait_s: float) -> None:
        """Let a notice come due later as the same attempt; one that is gone stays gone."""
        await self._put_back(notice, notice.attempt, wait_s)

    async def _put_back(self, notice: Notice, attempts: int, wait_s: float | None) -> None:
        again_ms = "" if wait_s is None else max(0, round(wait_s * 1000))
        await self._lanes.run("settle_notice", notice.notice_id, attempts, again_ms)


def notice_id_of(job: PhotoJob) -> str:
    """The id that the notice about a job will have, however that ends."""
    return closing_notice(job.job_id, job.webhook_url or "", JobState.SUCCEEDED, ended_s=0.0).notice_id


def _notice_of(found: Sequence[bytes]) -> Notice:
    _, job_id, url, outcome, ended_us, failure, attempts, origin, owner = found
    notice = closing_notice(
        job_id.decode(),
        url.decode(),
        JobState(outcome.decode()),
        ended_s=int(ended_us) / 1e6,
        failure=decode(Failure, failure) if failure else None,
        origin=decode(Origin, origin) if origin else None,
        owner=owner.decode() if owner else "",
    )
    return replace(notice, attempt=int(attempts))
