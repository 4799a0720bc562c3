"""A queue of photos in Redis, shared by any number of gateways, and what became of them.

    admit -> lane -> take -> (gateway) -> finish | fail -> status, result, watch, notice

A photo is a job of one item in the same lanes as faces are (`redis_lanes.py`). What the queue promises is
`service.core.interfaces.JobQueue`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.brokers.codec import decode, encode
from service.brokers.intake import cannot_be_kept, closed_before, key_conflict, lane_full, owners_share, queue_closed
from service.brokers.keys import QueueKeys
from service.brokers.redis_connection import as_ms
from service.brokers.redis_lanes import POLL_S, Lanes, LeaseTerms, OnLanes
from service.brokers.redis_outbox import RedisOutbox, notice_id_of
from service.brokers.redis_previews import next_news, preview_in, show_previews
from service.core.admission import told_wait_s
from service.core.errors import DependencyUnavailable, ImageTooLarge, NotFound, QueueFull, ServiceError
from service.core.jobs import (
    Admitted,
    Failure,
    Idempotency,
    JobState,
    JobStatus,
    Notice,
    PhotoJob,
    Progress,
    no_result,
    unknown_job,
    upload_gone,
)
from service.core.metrics import Metrics
from service.core.results import StoredResult
from service.core.types import FacePreview, Lane, Report, Restoration, Upload

_MOST_BYTES = 512 * 1024 * 1024  # of a value, unless the server is set up otherwise (`proto-max-bulk-len`)
_ATTEMPTS = 3  # at a result that does not get through to a server that answers otherwise
_KEEP_S = 10.0  # longest time that somebody waits for his answer because it is kept, too


@dataclass(frozen=True, slots=True)
class SharedJobLimits:
    """How much a shared queue of photos holds, and for how long.

    Attributes:
        max_queued_photos: Photos that may wait in one lane.
        result_ttl_s: How long a job is remembered after its end.
        payload_ttl_s: How long a photo may wait before it is dropped and its job fails.
        lease_s: Seconds a gateway may be silent before its photos are given to others.
        max_deliveries: Gateways that may be lost over one photo.
        notice_lease_s: After how long a notice that was not settled is handed out again.
        max_notices: Notices that are kept, some 1200 bytes each; the oldest of the owner who has most makes room.
    """

    max_queued_photos: int
    result_ttl_s: float
    payload_ttl_s: float = 86400.0
    lease_s: float = 30.0
    max_deliveries: int = 3
    notice_lease_s: float = 60.0
    max_notices: int = 100_000

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One of them is out of range.
        """
        if self.max_queued_photos < 1:
            raise ValueError(f"max_queued_photos must be at least 1, not {self.max_queued_photos}")
        for name in ("result_ttl_s", "payload_ttl_s", "notice_lease_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


class RedisJobQueue(OnLanes[PhotoJob]):
    """Implements `service.core.interfaces.JobQueue` on Redis 6.2 or later, with the errors told there.

    Args:
        url: `redis://`, `rediss://` or `unix://` address of the server.
        limits: How much it holds.
        metrics: Told how many photos wait, about reclaimed and abandoned ones, and how each ended.
        prefix: Of every key; gateways that share a queue share it.

    Raises:
        ValueError: A value is out of range, or the address is not one.
    """

    def __init__(self, url: str, limits: SharedJobLimits, *, metrics: Metrics, prefix: str) -> None:
        self._limits = limits
        self._metrics = metrics
        self._keys = QueueKeys(prefix, "photos")
        terms = LeaseTerms(limits.lease_s, limits.max_deliveries)
        self._lanes = Lanes(
            PhotoJob, url, self._keys, terms, metrics=metrics, show_lane=self._show_lane, on_failed=metrics.photo_failed
        )
        self._outbox = RedisOutbox(
            self._lanes, self._keys, metrics, lease_s=limits.notice_lease_s, max_notices=limits.max_notices
        )

    async def admit(self, job: PhotoJob, idempotency: Idempotency | None = None) -> Admitted:
        """Queue a photo, unless it repeats a request with the same idempotency key."""
        if self._lanes.closed:
            raise queue_closed()
        limits = self._limits
        answer, job_id, waiting, seconds_per_photo, view = await self._lanes.run(
            "admit",
            *(job.job_id, job.lane.value, limits.max_queued_photos),
            *(encode(job), as_ms(limits.payload_ttl_s), as_ms(limits.result_ttl_s)),
            *(job.webhook_url or "", notice_id_of(job)),
            *("", "") if idempotency is None else (self._keys.digest(idempotency.key), idempotency.fingerprint),
            "" if job.origin is None else encode(job.origin),
            *("kept" if job.keep_upload else "", job.owner, owners_share(limits.max_queued_photos)),
        )
        self._lanes.show(view)
        if answer == b"conflict":
            raise key_conflict()
        come_back_s = told_wait_s(float(seconds_per_photo))
        if answer in {b"full", b"owner full"}:
            raise lane_full(job.lane, waiting, come_back_s, for_owner=answer == b"owner full")
        if answer == b"no memory":
            hint = "come back after the time in Retry-After"
            raise QueueFull("the memory for photos and results is full", hint=hint, retry_after_s=come_back_s)
        return Admitted(job_id.decode(), is_new=answer == b"admitted")

    async def known_by(self, idempotency: Idempotency) -> str | None:
        """The job that a request with this key repeats; None for one that is to be admitted."""
        digest = self._keys.digest(idempotency.key)
        relation, job_id = await self._lanes.run("known", digest, idempotency.fingerprint) or (b"", b"")
        if relation == b"conflict":
            raise key_conflict()
        return job_id.decode() if relation == b"joined" else None

    async def take(self, wait_s: float) -> PhotoJob | None:
        """Hand a photo to a gateway, interactive lane first; None after `wait_s` without work.

        A closed queue has no work. Cancelling the call loses no photo. A photo whose bytes are gone fails.
        """
        taken = await self._lanes.take(1, wait_s)
        return taken[0].item if taken else None

    async def beat(self, job_ids: Sequence[str]) -> set[str]:
        """Renew leases; returns the jobs that this gateway does not have any more."""
        return {job_id for job_id, _ in await self._lanes.beat({(job_id, 0): None for job_id in job_ids})}

    async def note(self, job_id: str, progress: Progress) -> None:
        """Tell those who watch how far a running job is."""
        await self._lanes.run_as_taker("note", job_id, encode(progress))

    async def show(self, preview: FacePreview) -> None:
        """Show a face of a running job to those who look at its previews."""
        await show_previews(self._lanes, [((preview.job_id, 0), preview)])

    async def finish(self, restoration: Restoration) -> bool:
        """Store the result of a job, and the notice about it if somebody wants one, then acknowledge the job."""
        is_end, view = await self._bring(restoration)
        self._lanes.show(view)
        self._lanes.let_go((restoration.report.id, 0))
        if is_end:
            self._metrics.photos("succeeded")
        return bool(is_end)

    async def fail(self, job_id: str, error: ServiceError) -> bool:
        """Store why a job failed, and the notice about it if somebody wants one, acknowledge it; whether it counts."""
        return await self._lanes.fail((job_id, 0), error, sets_pace=True)

    async def hand_back(self, job_id: str) -> None:
        """Put a job that was taken at the front of its lane again."""
        await self._lanes.hand_back([(job_id, 0)])

    async def keep(self, restoration: Restoration, owner: str = "") -> StoredResult | None:
        """Keep the result of a photo that was answered without a job; None, too, where it takes too long."""
        report, data, expires_ms = restoration.report, encode(restoration), None
        if len(data) <= _MOST_BYTES:
            ttl_ms = as_ms(self._limits.result_ttl_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KEEP_S):
                    expires_ms = await self._lanes.run("keep", report.id, data, encode(report), ttl_ms, owner)
        return None if expires_ms is None else StoredResult(restoration, int(expires_ms) / 1000)

    async def status(self, job_id: str) -> JobStatus:
        """Where a job is."""
        status = _status_of(job_id, await self._lanes.run("status", job_id))
        if status.state is JobState.SUCCEEDED and status.report is None:  # a gateway of an earlier release has ended it
            status = replace(status, report=(await self._restoration(job_id)).report)
        return status

    async def result(self, job_id: str) -> StoredResult:
        """The result of a job that has succeeded."""
        status = await self.status(job_id)
        if status.state is not JobState.SUCCEEDED or status.expires_s is None:
            raise no_result(status.state, status.failure)
        return StoredResult(await self._restoration(job_id), status.expires_s)

    async def upload(self, job_id: str) -> Upload:
        """The photo of a job that was to keep it, however far it is."""
        (data,) = await self._lanes.get_many([self._keys.payload(job_id, 0)])
        photo = None if data is None else decode(PhotoJob, data)
        if photo is None or not photo.keep_upload:
            raise upload_gone()
        return photo.upload

    async def watch(self, job_id: str) -> AsyncGenerator[JobStatus, None]:
        """Where a job is now, and again whenever that changes, until it has ended."""
        told: JobStatus | None = None
        async with self._lanes.listener.listen(self._keys.news(job_id), self._keys.moved) as ear:
            while not ear.closed:
                try:
                    status = await self.status(job_id)
                except NotFound:
                    if told is None:
                        raise
                    status = replace(told, state=JobState.CANCELLED, position=None)
                if status != told:
                    told = status
                    yield status
                if status.state.final:
                    return
                await next_news(ear, is_queued=status.state is JobState.QUEUED)
        raise closed_before("the restoration ended")

    async def previews(self, job_id: str) -> AsyncGenerator[FacePreview, None]:
        """Previews of a job's faces from now on; it ends with the queue only."""
        async with self._lanes.listener.listen(self._keys.news(job_id)) as ear:
            while not ear.closed:
                for preview in filter(None, map(preview_in, await ear.wait(POLL_S))):
                    yield preview

    async def cancel(self, job_id: str) -> JobStatus:
        """Withdraw a job; one that has ended stays as it is."""
        is_end, view = await self._lanes.run("cancel", job_id, secrets.token_hex(8))
        self._lanes.show(view)
        if is_end:
            self._metrics.photos("cancelled")
        return await self.status(job_id)

    async def delete(self, job_id: str) -> None:
        """Withdraw a job and forget everything about it at once."""
        known, is_end, view = await self._lanes.run("delete", job_id)
        self._lanes.show(view)
        if not known:
            raise unknown_job()
        if is_end:
            self._metrics.photos("cancelled")

    async def due_notice(self, wait_s: float) -> Notice | None:
        """A notice whose time has come, on lease; None after `wait_s` without one."""
        return await self._outbox.due(wait_s)

    async def settle_notice(self, notice: Notice, retry_in_s: float | None) -> None:
        """Drop a notice, or let it come due again as the next attempt; one that is gone stays gone."""
        await self._outbox.settle(notice, retry_in_s)

    async def postpone_notice(self, notice: Notice, wait_s: float) -> None:
        """Let a notice come due later as the same attempt; one that is gone stays gone."""
        await self._outbox.postpone(notice, wait_s)

    async def _bring(self, restoration: Restoration) -> Any:  # noqa: ANN401 - what the script returns
        """Store the result of a job that this gateway has on lease, and end the job.

        Raises:
            ImageTooLarge: It is more than the server takes, or than the way there.
            DependencyUnavailable: The server does not answer.
        """
        report, data = restoration.report, encode(restoration)
        if len(data) > _MOST_BYTES:  # the server would hang up, and seem to be away for ever
            raise cannot_be_kept(len(data), _MOST_BYTES)
        for _ in range(_ATTEMPTS):
            try:
                return await self._lanes.run_as_taker("finish", report.id, data, encode(report))
            except DependencyUnavailable as error:
                if not (isinstance(error.__cause__, TimeoutError) and await self._lanes.ready()):
                    raise
        raise ImageTooLarge(
            f"the result has {len(data)} bytes; {_ATTEMPTS} attempts to bring it to the queue's server took too long",
            hint="choose a smaller upscale or output_format=jpeg, or send the photo to /restore",
            result_bytes=len(data),
        )

    async def _restoration(self, job_id: str) -> Restoration:
        (data,) = await self._lanes.get_many([self._keys.result(job_id)])
        if data is None:
            raise unknown_job()
        return decode(Restoration, data)

    def _show_lane(self, lane: Lane, photos: int, oldest_s: float | None) -> None:
        self._metrics.photos_waiting(lane.value, photos)
        self._metrics.photos_oldest(lane.value, oldest_s)


def _status_of(job_id: str, found: Sequence[Any]) -> JobStatus:
    if not found:
        raise unknown_job()
    state, created_us, expires_ms, position, progress, failure, report = found
    return JobStatus(
        job_id=job_id,
        state=JobState(state.decode()),
        created_s=int(created_us) / 1e6,
        expires_s=int(expires_ms) / 1000 if expires_ms else None,
        position=None if position == b"" else int(position),
        progress=decode(Progress, progress) if progress else None,
        failure=decode(Failure, failure) if failure else None,
        report=decode(Report, report) if report else None,
    )
