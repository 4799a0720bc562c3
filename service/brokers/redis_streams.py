"""A queue of faces in Redis, shared by any number of gateways and workers.

    submit -> lane -> take -> (worker) -> complete | fail -> results

Everything that counts lies in the server: a process that vanishes takes nothing with it. What the queue promises is
`service.core.interfaces.Broker`; how photos take turns is as in `service.brokers.memory`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.brokers.codec import decode, encode
from service.brokers.intake import (
    closed_before,
    common_job,
    faces_full,
    interest_s,
    not_in_time,
    not_queued,
    queue_closed,
)
from service.brokers.keys import QueueKeys
from service.brokers.redis_connection import Argument, as_ms
from service.brokers.redis_lanes import POLL_S, Lanes, LeaseTerms, OnLanes, Taken
from service.brokers.redis_listener import PATIENCE_S
from service.brokers.redis_previews import is_preview, preview_in, show_previews
from service.core.admission import told_wait_s
from service.core.errors import DeadlineExceeded, DependencyUnavailable, ServiceError
from service.core.interfaces import OnPreview, OnProgress
from service.core.jobs import Failure, Progress
from service.core.metrics import Metrics
from service.core.types import FaceJob, FaceKey, FacePreview, Lane, RestoredFace


class RedisBroker(OnLanes[FaceJob]):
    """Implements `service.core.interfaces.Broker` on Redis 6.2 or later, with the errors told there.

    Args:
        url: `redis://`, `rediss://` or `unix://` address of the server.
        max_queued_faces: Faces that may wait in one lane. A photo with more than that enters an empty lane.
        metrics: Told about depth, waiting times, withdrawn, reclaimed and abandoned faces.
        prefix: Of every key; gateways and workers that share a queue share it.
        lease_s: Seconds a worker may be silent before its faces are given to others.
        max_deliveries: Workers that may be lost over one face.
        payload_ttl_s: Seconds that pixels stay in the server at most.
        turns_s: How long an interactive photo takes turns.

    Raises:
        ValueError: A value is out of range, or the address is not one.
    """

    def __init__(  # noqa: PLR0913 - what a deployment sets
        self,
        url: str,
        *,
        max_queued_faces: int,
        metrics: Metrics,
        prefix: str,
        lease_s: float = 30.0,
        max_deliveries: int = 3,
        payload_ttl_s: float = 86400.0,
        turns_s: float = math.inf,
    ) -> None:
        if max_queued_faces < 1:
            raise ValueError(f"max_queued_faces must be at least 1, not {max_queued_faces}")
        if payload_ttl_s <= 0:
            raise ValueError(f"payload_ttl_s must be above 0, not {payload_ttl_s}")
        self._max_queued_faces = max_queued_faces
        self._payload_ttl_s = payload_ttl_s
        self._metrics = metrics
        self._keys = QueueKeys(prefix, "faces")
        terms = LeaseTerms(lease_s, max_deliveries, turns_s)
        self._lanes = Lanes(FaceJob, url, self._keys, terms, metrics=metrics, show_lane=self._show_lane)

    async def submit(self, faces: Sequence[FaceJob]) -> None:
        """Admit all faces of one photo, or none; a job that is in the queue already is joined."""
        job_id, lane = common_job(faces)
        if self._lanes.closed:
            raise queue_closed()
        forget_s = interest_s(faces)
        arguments: list[Argument] = [job_id, lane.value, self._max_queued_faces, as_ms(self._payload_ttl_s)]
        arguments += (as_ms(min(forget_s, self._payload_ttl_s)), "" if math.isinf(forget_s) else as_ms(forget_s))
        for face in faces:
            arguments += (face.face_index, face.num_steps, encode(face))
        answer, waiting, seconds_per_face, forgotten, view = await self._lanes.run("submit", *arguments)
        self._lanes.withdrawn(forgotten)
        self._lanes.show(view)
        if answer == b"full":
            excess = waiting + len(faces) - self._max_queued_faces
            raise faces_full(waiting, self._max_queued_faces, told_wait_s(float(seconds_per_face) * excess))

    async def take(self, max_items: int, wait_s: float) -> list[FaceJob]:
        """Hand up to `max_items` faces to a worker, interactive lane first; empty after `wait_s` without work.

        A closed queue has no work. Cancelling the call loses no face. A face whose pixels are gone fails its job.
        """
        return self._begun(await self._lanes.take(max_items, wait_s))

    async def take_interactive(self, max_items: int) -> list[FaceJob]:
        """Hand up to `max_items` faces of the interactive lane to a worker that has no room for others; no wait."""
        return self._begun(await self._lanes.take_interactive(max_items))

    async def beat(self, steps_done: Mapping[FaceKey, int]) -> set[FaceKey]:
        """Renew leases and note how far faces are; returns those that this worker does not have any more."""
        return await self._lanes.beat(steps_done)

    async def show(self, previews: Sequence[FacePreview]) -> None:
        """Show previews of faces that this worker has to those who wait for them; nothing of them is stored."""
        await show_previews(self._lanes, [((preview.job_id, preview.face_index), preview) for preview in previews])

    async def complete(self, result: RestoredFace) -> None:
        """Store a result, then acknowledge its entry; dropped if this worker does not have the face."""
        key = (result.job_id, result.face_index)
        await self._lanes.run_as_taker("complete", *key, encode(result), as_ms(self._payload_ttl_s))
        self._lanes.let_go(key)

    async def fail(self, job: FaceJob, error: ServiceError) -> None:
        """Store a failure: the job has failed, and its other faces are withdrawn."""
        await self._lanes.fail(job.key, error)

    async def hand_back(self, faces: Sequence[FaceJob]) -> None:
        """Put faces that were taken at the front of their lanes again."""
        await self._lanes.hand_back([face.key for face in faces])

    async def results(
        self,
        job_id: str,
        timeout_s: float | None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> list[RestoredFace]:
        """Wait for every face of a job and forget it; ordered by face index. A server that is away is waited for."""
        ends_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        patience_s = PATIENCE_S if timeout_s is None else min(timeout_s, PATIENCE_S)
        told = _Told(on_progress, on_preview)
        async with self._lanes.listener.listen(self._keys.news(job_id), patience_s=patience_s) as ear:
            looks = True
            while not ear.closed:
                if looks:
                    found = None
                    with contextlib.suppress(DependencyUnavailable):  # the server's; a face may have failed by one, too
                        found = await self._look(job_id, told)
                    if isinstance(found, ServiceError):
                        raise found
                    if found is not None:
                        return found
                left_s = ends_s - time.monotonic()
                if left_s <= 0:
                    with contextlib.suppress(DependencyUnavailable):
                        await self.cancel(job_id)
                    raise not_in_time(timeout_s)
                heard = await ear.wait(min(left_s, POLL_S))
                looks = not heard or any([told.hears_of_an_end(message) for message in heard])
        raise closed_before("the faces were restored")

    async def cancel(self, job_id: str) -> None:
        """Withdraw a job: queued faces are dropped, running ones are freed at the next step."""
        waited, view = await self._lanes.run("withdraw", job_id)
        self._lanes.withdrawn(waited)
        self._lanes.show(view)

    def _begun(self, taken: Sequence[Taken[FaceJob]]) -> list[FaceJob]:
        """The faces, whose wait is over."""
        for face in taken:
            self._metrics.observe_queue_wait(face.item.lane.value, face.waited_s)
        return [face.item for face in taken]

    async def _look(self, job_id: str, told: _Told) -> list[RestoredFace] | ServiceError | None:
        """The faces of a job if all are done, or the first failure of one; None while there is neither."""
        kind, *found = await self._lanes.run("look", job_id)
        if kind == b"running":
            revision, *counts = map(int, found)
            told.sees(revision, Progress(*counts))
            return None
        if kind == b"gone":
            raise not_queued(job_id)
        if kind == b"failed":
            await self._forget(job_id)
            return decode(Failure, found[0]).to_error()
        waits_ms = {int(index): float(waited) for index, waited in zip(found[::2], found[1::2], strict=True)}
        indices = sorted(waits_ms)
        stored = await self._lanes.get_many([self._keys.result(job_id, index) for index in indices])
        await self._forget(job_id)
        return [_restored_of(data, waits_ms[index]) for index, data in zip(indices, stored, strict=True)]

    async def _forget(self, job_id: str) -> None:
        with contextlib.suppress(DependencyUnavailable):  # its time to live sees to it
            await self._lanes.run("withdraw", job_id)

    def _show_lane(self, lane: Lane, faces: int, oldest_s: float | None) -> None:
        self._metrics.queue_depth(lane.value, faces)
        self._metrics.queue_oldest(lane.value, oldest_s)


class _Told:
    """What a waiter has been told of a job's progress: each change once, none after a later one."""

    def __init__(self, on_progress: OnProgress | None, on_preview: OnPreview | None) -> None:
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._revision = -1

    def hears_of_an_end(self, message: bytes) -> bool:
        """Take note of a message; whether it says that the job should be looked at."""
        if is_preview(message):
            preview = preview_in(message)
            if preview is not None and self._on_preview is not None:
                self._on_preview(preview)
            return False
        words = message.split()
        if len(words) < len(("revision", "faces", "faces done", "steps", "steps done")):
            return True
        revision, *counts = map(int, words)
        progress = Progress(*counts)
        self.sees(revision, progress)
        return progress.faces_done == progress.num_faces

    def sees(self, revision: int, progress: Progress) -> None:
        """Pass on what is new."""
        if revision > self._revision:
            self._revision = revision
            if self._on_progress is not None:
                self._on_progress(progress)


def _restored_of(data: bytes | None, queue_wait_ms: float) -> RestoredFace:
    if data is None:
        raise DeadlineExceeded("the faces were restored, but not fetched in time", hint="send the photo again")
    face = decode(RestoredFace, data)
    return replace(face, timings_ms={"queue_wait": queue_wait_ms, **face.timings_ms})
