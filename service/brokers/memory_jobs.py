"""A queue of photos in this process, and what became of them.

    admit -> lane -> take -> (gateway) -> finish | fail -> status, result, watch, notice

A job is live from its admission to its end, then it lies on the shelf until its time is over, newer ones need its room,
or it is deleted. Everything runs in one event loop, and no method suspends between reading and changing the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from service.brokers.intake import cannot_be_kept, closed_before, key_conflict, lane_full, queue_closed
from service.brokers.lanes import Pace
from service.brokers.memory_job import MemoryJob
from service.brokers.outbox import Outbox
from service.brokers.photo_lanes import PhotoLanes
from service.brokers.shelf import Shelf
from service.core.errors import ServiceError
from service.core.jobs import (
    Admitted,
    Failure,
    Idempotency,
    JobState,
    JobStatus,
    Notice,
    PhotoJob,
    Progress,
    unknown_job,
    upload_gone,
)
from service.core.metrics import Metrics
from service.core.notices import closing_notice
from service.core.results import StoredResult
from service.core.settings import Settings
from service.core.types import FacePreview, Restoration, Upload

_REPORT_BYTES = 4096  # a generous guess of a report's weight: tiny images must not fill the memory with reports
_MAX_ENDED = 10_000  # jobs that are remembered after their end
_NOTICE_LEASE_S = 60.0


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How much a queue in memory holds.

    Attributes:
        max_queued_photos: Photos that may wait in one lane.
        max_queued_bytes: Bytes of all photos that wait; one alone may be larger.
        result_ttl_s: How long a job is remembered after its end.
        max_result_bytes: Budget of all results; a result above it cannot be kept.
        notice_lease_s: After how long a notice that was not settled is handed out again.
        max_notices: Notices that are kept; the oldest of the owner who has most makes room.
    """

    max_queued_photos: int
    max_queued_bytes: int
    result_ttl_s: float
    max_result_bytes: int
    notice_lease_s: float = _NOTICE_LEASE_S
    max_notices: int = 10_000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the operator allows."""
        return cls(
            max_queued_photos=settings.max_queued_photos,
            max_queued_bytes=settings.job_queue_bytes,
            result_ttl_s=settings.result_ttl_s,
            max_result_bytes=settings.result_cache_bytes,
        )


class MemoryJobQueue:
    """Implements `service.core.interfaces.JobQueue` for one event loop, with the errors told there.

    Args:
        limits: How much it holds.
        metrics: Told how many photos wait, and how each ended.
        clock: Unix time in seconds.
    """

    def __init__(self, limits: JobLimits, *, metrics: Metrics, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._live: dict[str, MemoryJob] = {}
        self._lanes = PhotoLanes(
            max_photos=limits.max_queued_photos, max_bytes=limits.max_queued_bytes, metrics=metrics
        )
        self._by_key: dict[str, MemoryJob] = {}  # jobs that are remembered, by their idempotency keys
        self._ended: Shelf[MemoryJob] = Shelf(
            ttl_s=limits.result_ttl_s,
            max_bytes=limits.max_result_bytes,
            max_things=_MAX_ENDED,
            clock=clock,
            on_gone=self._forget_key,
        )
        self._outbox = Outbox(
            lease_s=limits.notice_lease_s, max_notices=limits.max_notices, clock=clock, metrics=metrics
        )
        self._pace = Pace()
        self._closed = False

    @property
    def held_bytes(self) -> int:
        """How much of the budget for results is spent."""
        return self._ended.held_bytes

    async def admit(self, job: PhotoJob, idempotency: Idempotency | None = None) -> Admitted:
        """Queue a photo, unless it repeats a request with the same idempotency key."""
        if self._closed:
            raise queue_closed()
        if idempotency is not None and (earlier := await self.known_by(idempotency)) is not None:
            return Admitted(earlier, is_new=False)
        has_room = self._lanes.has_room(job)
        if not has_room or not self._lanes.has_room_for_owner(job):
            waiting = self._lanes.depth(job.lane)
            raise lane_full(job.lane, waiting, self._pace.retry_after_s(1), for_owner=has_room)
        entry = MemoryJob(job.job_id, self._clock(), job, idempotency, owner=job.owner)
        self._live[job.job_id] = entry
        if idempotency is not None:
            self._by_key[idempotency.key] = entry
        self._lanes.enter(entry, job)
        return Admitted(job.job_id, is_new=True)

    async def known_by(self, idempotency: Idempotency) -> str | None:
        """The job that a request with this key repeats; None for one that is to be admitted."""
        self._ended.drop_expired()  # and with them their keys
        earlier = self._by_key.get(idempotency.key)
        if earlier is None:
            return None
        if earlier.idempotency != idempotency:
            raise key_conflict()
        may_be_tried_again = earlier.failure is not None and earlier.failure.to_error().retryable
        return None if may_be_tried_again else earlier.job_id

    async def take(self, wait_s: float) -> PhotoJob | None:
        """Hand a photo to a gateway, interactive lane first; None after `wait_s` without work.

        A closed queue has no work. Cancelling the call loses no photo.
        """
        if self._closed:
            await asyncio.sleep(wait_s)  # a gateway that does not know yet must not spin
            return None
        await self._lanes.wait(wait_s)
        taken = None if self._closed else self._lanes.take()
        if taken is None:
            return None
        entry, photo = taken
        entry.state = JobState.RUNNING
        entry.taken_s = self._clock()
        entry.wake()
        return photo

    async def beat(self, job_ids: Sequence[str]) -> set[str]:
        """Those of the jobs that nobody waits for."""
        return {job_id for job_id in job_ids if self._running(job_id) is None}

    async def note(self, job_id: str, progress: Progress) -> None:
        """Tell those who watch how far a running job is."""
        entry = self._running(job_id)
        if entry is not None:
            entry.progress = progress
            entry.wake()

    async def show(self, preview: FacePreview) -> None:
        """Show a face of a running job to those who look at its previews."""
        entry = self._running(preview.job_id)
        for box in () if entry is None else entry.boxes:
            box.put(preview)

    async def finish(self, restoration: Restoration) -> bool:
        """Store the result of a job; whether it is its outcome."""
        entry = self._running(restoration.report.id)
        if entry is None:
            return False
        size_bytes = _size_bytes(restoration)
        if not self._ended.fits(size_bytes):
            raise cannot_be_kept(size_bytes, self._limits.max_result_bytes)
        entry.result = StoredResult(restoration, self._ended.next_expiry_s())
        self._end(entry, JobState.SUCCEEDED, size_bytes)
        self._metrics.photos("succeeded")
        return True

    async def fail(self, job_id: str, error: ServiceError) -> bool:
        """Store why a job failed; whether it is its outcome."""
        entry = self._running(job_id)
        if entry is None:
            return False
        entry.failure = Failure.of(error)
        self._end(entry, JobState.FAILED)
        self._metrics.photo_failed(error.code)
        return True

    async def hand_back(self, job_id: str) -> None:
        """Put a job that was taken at the front of its lane again."""
        entry = self._running(job_id)
        if entry is not None and entry.photo is not None:
            entry.state = JobState.QUEUED
            entry.progress = None
            self._lanes.enter(entry, entry.photo, first=True)
            entry.wake()

    async def keep(self, restoration: Restoration, owner: str = "") -> StoredResult | None:
        """Keep the result of a photo of its owner's that was answered without a job; None when it does not fit."""
        size_bytes = _size_bytes(restoration)
        if not self._ended.fits(size_bytes):
            return None
        entry = MemoryJob(restoration.report.id, self._clock(), owner=owner)
        entry.result = StoredResult(restoration, self._ended.next_expiry_s())
        self._end(entry, JobState.SUCCEEDED, size_bytes)
        return entry.result

    async def status(self, job_id: str) -> JobStatus:
        """Where a job is."""
        return self._status_of(self._find(job_id))

    async def result(self, job_id: str) -> StoredResult:
        """The result of a job that has succeeded."""
        return self._find(job_id).outcome()

    async def upload(self, job_id: str) -> Upload:
        """The photo of a job that was to keep it, however far it is."""
        entry = self._live.get(job_id) or self._ended.get(job_id)
        if entry is not None and entry.photo is not None and entry.photo.keep_upload:
            return entry.photo.upload
        if entry is None or entry.upload is None:
            raise upload_gone()
        return entry.upload

    async def watch(self, job_id: str) -> AsyncGenerator[JobStatus, None]:
        """Where a job is now, and again whenever that changes, until it has ended."""
        entry = self._find(job_id)
        changed = asyncio.Event()
        entry.watchers.add(changed)
        try:
            told = None
            while True:
                changed.clear()
                status = self._status_of(entry)
                if status != told:
                    told = status
                    yield status
                if status.state.final:
                    return
                if self._closed:
                    raise closed_before("the restoration ended")
                await changed.wait()
        finally:
            entry.watchers.discard(changed)

    def previews(self, job_id: str) -> AsyncGenerator[FacePreview, None]:
        """Previews of a job's faces from now on; it does not end."""
        return self._find(job_id).previews()

    async def cancel(self, job_id: str) -> JobStatus:
        """Withdraw a job; one that has ended stays as it is."""
        entry = self._find(job_id)
        if not entry.state.final:
            self._end(entry, JobState.CANCELLED)
            self._metrics.photos("cancelled")
        return self._status_of(entry)

    async def delete(self, job_id: str) -> None:
        """Withdraw a job and forget everything about it at once."""
        entry = self._find(job_id)
        if not entry.state.final:
            self._withdraw(entry, JobState.CANCELLED)
            self._metrics.photos("cancelled")
        self._ended.take(job_id)
        self._forget_key(entry)

    async def due_notice(self, wait_s: float) -> Notice | None:
        """A notice whose time has come, on lease; None after `wait_s` without one."""
        return await self._outbox.due(wait_s)

    async def settle_notice(self, notice: Notice, retry_in_s: float | None) -> None:
        """Drop a notice, or let it come due again."""
        self._outbox.settle(notice, retry_in_s)

    async def postpone_notice(self, notice: Notice, wait_s: float) -> None:
        """Let a notice come due later as the same attempt."""
        self._outbox.postpone(notice, wait_s)

    async def depth(self) -> int:
        """Photos waiting, all lanes."""
        return self._lanes.depth()

    async def ready(self) -> bool:
        """Whether the queue can be used."""
        return not self._closed

    async def close(self) -> None:
        """Take and hand out nothing more, wake every waiter."""
        self._closed = True
        self._lanes.close()
        self._outbox.close()
        self._ended.close()
        for entry in self._live.values():
            entry.wake()

    def _withdraw(self, entry: MemoryJob, state: JobState) -> None:
        """Let a job be live no longer."""
        if entry.state is JobState.QUEUED and entry.photo is not None:
            self._lanes.leave(entry, entry.photo)
        self._live.pop(entry.job_id, None)
        entry.state = state
        entry.photo = None
        entry.wake()

    def _end(self, entry: MemoryJob, state: JobState, size_bytes: int = 0) -> None:
        """Let a job end: onto the shelf, and a notice into the outbox if somebody wants one."""
        photo = entry.photo
        if entry.state is JobState.RUNNING and state is not JobState.CANCELLED:
            in_flight = sum(each.state is JobState.RUNNING for each in self._live.values())
            self._pace.note(max(0.0, self._clock() - entry.taken_s), in_flight)
        self._withdraw(entry, state)
        if photo is not None and photo.keep_upload and self._ended.fits(size_bytes + len(photo.upload.data)):
            entry.upload = photo.upload
            size_bytes += len(photo.upload.data)
        entry.expires_s = self._ended.next_expiry_s()
        self._ended.put(entry.job_id, entry, size_bytes, entry.owner)
        if photo is not None and photo.webhook_url is not None:
            notice = closing_notice(
                entry.job_id,
                photo.webhook_url,
                state,
                ended_s=self._clock(),
                failure=entry.failure,
                origin=photo.origin,
                owner=photo.owner,
            )
            self._outbox.put(notice)

    def _forget_key(self, entry: MemoryJob) -> None:
        """A job is not remembered any more; its key may stand for another one by now."""
        key = None if entry.idempotency is None else entry.idempotency.key
        if key is not None and self._by_key.get(key) is entry:
            del self._by_key[key]

    def _find(self, job_id: str) -> MemoryJob:
        entry = self._live.get(job_id) or self._ended.get(job_id)
        if entry is None:
            raise unknown_job()
        return entry

    def _running(self, job_id: str) -> MemoryJob | None:
        entry = self._live.get(job_id)
        return entry if entry is not None and entry.state is JobState.RUNNING else None

    def _status_of(self, entry: MemoryJob) -> JobStatus:
        return entry.status(self._lanes.position(entry))


def _size_bytes(restoration: Restoration) -> int:
    return len(restoration.data) + _REPORT_BYTES
