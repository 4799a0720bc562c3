"""A queue in this process: lanes of photos, whose faces are handed out in turn.

    submit -> lane -> take -> (worker) -> complete | fail -> results

A job lives from `submit` until its results are fetched, it is withdrawn, or its deadline is long past; whatever arrives
for a job that is gone is dropped. Everything runs in one event loop, and no method suspends between reading and
changing the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.brokers.intake import (
    closed_before,
    common_job,
    faces_full,
    interest_s,
    not_in_time,
    not_queued,
    queue_closed,
)
from service.brokers.lanes import LaneTurns, Pace
from service.core.errors import Cancelled, DeadlineExceeded, ServiceError
from service.core.interfaces import OnPreview, OnProgress
from service.core.jobs import Progress
from service.core.metrics import Metrics
from service.core.types import FaceJob, FaceKey, FacePreview, Lane, RestoredFace


@dataclass(slots=True, eq=False)
class _Job:
    """A photo.

    Attributes:
        lane: Where its faces wait.
        submitted_s: When, on the monotonic clock.
        forget_s: When nobody can be interested any more, on the same clock.
        num_steps: Euler steps to take, by face index.
        waiting: Faces not yet taken.
        taken_s: When each face was taken that a worker has now, by face index.
        steps_done: Euler steps taken, by face index.
        restored: Results, by face index.
        on_progress: Told whenever a face has moved on, or None.
        on_preview: Shown previews of its faces, or None.
        error: Why the job failed, or None.
        keeps_turn: It has taken turns for so long that its waiting faces are handed out one after another now.
        ended: Set when the results, or an error, can be fetched.
    """

    lane: Lane
    num_steps: dict[int, int]
    submitted_s: float
    forget_s: float
    waiting: deque[FaceJob]
    taken_s: dict[int, float] = field(default_factory=dict)
    steps_done: dict[int, int] = field(default_factory=dict)
    restored: dict[int, RestoredFace] = field(default_factory=dict)
    on_progress: OnProgress | None = None
    on_preview: OnPreview | None = None
    error: ServiceError | None = None
    keeps_turn: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self) -> None:
        """Tell whoever listens how far the faces are."""
        if self.on_progress is not None:
            taken = {**self.steps_done, **{index: self.num_steps[index] for index in self.restored}}
            total = sum(self.num_steps.values())
            self.on_progress(Progress(len(self.num_steps), len(self.restored), total, sum(taken.values())))


class MemoryBroker:
    """Implements `service.core.interfaces.Broker` for one event loop, with the errors told there.

    Photos of a lane take turns, face by face, so that a group picture does not hold up a portrait. An interactive one
    that has done so for `turns_s` keeps its next turn to its last face: else it would have only its part of the workers
    for as long as others come. The interactive lane comes first; while it is busy, every fifth face is of the batch
    lane.

    Args:
        max_queued_faces: Faces that may wait in one lane. A photo with more than that enters an empty lane, because it
            could not be restored otherwise.
        metrics: Told about depth, waiting times and withdrawn faces.
        turns_s: How long an interactive photo takes turns.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        max_queued_faces: int,
        metrics: Metrics,
        turns_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_queued_faces < 1:
            raise ValueError(f"max_queued_faces must be at least 1, not {max_queued_faces}")
        self._max_queued_faces = max_queued_faces
        self._metrics = metrics
        self._turns_s = turns_s
        self._clock = clock
        self._jobs: dict[str, _Job] = {}
        self._lanes: dict[Lane, deque[_Job]] = {lane: deque() for lane in Lane}  # jobs that have waiting faces
        self._turns = LaneTurns()
        self._pace = Pace()
        self._changed = asyncio.Event()  # set while a face waits or the queue is closed
        self._closed = False

    async def submit(self, faces: Sequence[FaceJob]) -> None:
        """Admit all faces of one photo, or none; a job that is in the queue already is joined."""
        job_id, lane = common_job(faces)
        if job_id in self._jobs:
            return
        if self._closed:
            raise queue_closed()
        self._forget_old_jobs()
        waiting = self._depth(lane)
        if waiting and waiting + len(faces) > self._max_queued_faces:
            excess = waiting + len(faces) - self._max_queued_faces
            raise faces_full(waiting, self._max_queued_faces, self._pace.retry_after_s(excess))
        now_s = self._clock()
        num_steps = {face.face_index: face.num_steps for face in faces}
        job = _Job(lane, num_steps, now_s, now_s + interest_s(faces), deque(faces))
        self._jobs[job_id] = job
        self._lanes[lane].append(job)
        self._note_depth(lane)

    async def take(self, max_items: int, wait_s: float) -> list[FaceJob]:
        """Hand up to `max_items` faces to a worker, interactive lane first; empty after `wait_s` without work.

        A closed queue has no work. Cancelling the call loses no face.
        """
        if self._closed:
            await asyncio.sleep(wait_s)  # a worker that does not know yet must not spin
            return []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not (self._closed or self._depth()):
                    await self._changed.wait()
        faces: list[FaceJob] = []
        while len(faces) < max_items and (lane := self._next_lane()) is not None:
            faces.append(self._take_one(lane))
        return faces

    async def take_interactive(self, max_items: int) -> list[FaceJob]:
        """Hand up to `max_items` faces of the interactive lane to a worker that has no room for others; no wait."""
        lane = Lane.INTERACTIVE
        return [] if self._closed else [self._take_one(lane) for _ in range(min(max_items, self._depth(lane)))]

    async def beat(self, steps_done: Mapping[FaceKey, int]) -> set[FaceKey]:
        """Note how far faces are; returns those that nobody waits for."""
        unwanted = set()
        moved: dict[str, _Job] = {}
        for (job_id, face_index), steps in steps_done.items():
            job = self._jobs.get(job_id)
            if job is None or face_index not in job.taken_s:
                unwanted.add((job_id, face_index))
            elif job.steps_done.get(face_index, 0) != steps:
                job.steps_done[face_index] = steps
                moved[job_id] = job
        for job in moved.values():
            job.report()
        return unwanted

    async def show(self, previews: Sequence[FacePreview]) -> None:
        """Show previews of faces to those who wait for them; dropped where nobody looks."""
        for preview in previews:
            job = self._jobs.get(preview.job_id)
            if job is not None and job.on_preview is not None and preview.face_index in job.taken_s:
                job.on_preview(preview)

    async def complete(self, result: RestoredFace) -> None:
        """Store a result; dropped if nobody waits for it."""
        job = self._jobs.get(result.job_id)
        taken_s = None if job is None else job.taken_s.get(result.face_index)
        if job is None or taken_s is None:
            return
        in_flight = sum(len(each.taken_s) for each in self._jobs.values())
        self._pace.note(self._clock() - taken_s, in_flight)
        del job.taken_s[result.face_index]
        timings_ms = {"queue_wait": (taken_s - job.submitted_s) * 1000, **result.timings_ms}
        job.restored[result.face_index] = replace(result, timings_ms=timings_ms)
        job.report()
        if len(job.restored) == len(job.num_steps):
            job.ended.set()

    async def fail(self, job: FaceJob, error: ServiceError) -> None:
        """Store a failure: the job has failed, and its other faces are withdrawn."""
        found = self._jobs.get(job.job_id)
        if found is not None and job.face_index in found.taken_s:
            self._end(found, error)

    async def hand_back(self, faces: Sequence[FaceJob]) -> None:
        """Put faces that were taken at the front of their lanes again."""
        for face in faces:
            job = self._jobs.get(face.job_id)
            if job is None or job.taken_s.pop(face.face_index, None) is None:
                continue
            job.steps_done.pop(face.face_index, None)
            lane = self._lanes[job.lane]
            if job.waiting:
                lane.remove(job)
            job.waiting.appendleft(face)
            lane.appendleft(job)
            self._note_depth(job.lane)

    async def results(
        self,
        job_id: str,
        timeout_s: float | None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> list[RestoredFace]:
        """Wait for every face of a job and forget it; ordered by face index."""
        job = self._jobs.get(job_id)
        if job is None:
            raise not_queued(job_id)
        job.on_progress, job.on_preview = on_progress, on_preview
        job.report()
        try:
            async with asyncio.timeout(timeout_s):
                await job.ended.wait()
        except TimeoutError as error:
            await self.cancel(job_id)
            raise not_in_time(timeout_s) from error
        self._jobs.pop(job_id, None)
        if job.error is not None:
            raise job.error
        return [job.restored[index] for index in sorted(job.restored)]

    async def cancel(self, job_id: str) -> None:
        """Withdraw a job: queued faces are dropped, running ones are freed at the next step."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self._end(job, Cancelled(f"job {job_id} was withdrawn"))

    async def depth(self) -> int:
        """Faces waiting, all lanes."""
        return self._depth()

    async def ready(self) -> bool:
        """Whether the queue can be used."""
        return not self._closed

    async def close(self) -> None:
        """Take nothing more, fail what is not finished, wake every waiter."""
        self._closed = True
        for job in self._jobs.values():
            if not job.ended.is_set():
                self._end(job, closed_before("the faces were restored"))
        self._changed.set()

    def _depth(self, *lanes: Lane) -> int:
        return sum(len(job.waiting) for lane in lanes or Lane for job in self._lanes[lane])

    def _next_lane(self) -> Lane | None:
        return self._turns.next(interactive=bool(self._lanes[Lane.INTERACTIVE]), batch=bool(self._lanes[Lane.BATCH]))

    def _take_one(self, lane: Lane) -> FaceJob:
        job = self._lanes[lane].popleft()
        face = job.waiting.popleft()
        job.taken_s[face.face_index] = self._clock()
        if job.waiting and job.keeps_turn:
            self._lanes[lane].appendleft(job)
        elif job.waiting:
            self._lanes[lane].append(job)
            waited_s = job.taken_s[face.face_index] - job.submitted_s
            job.keeps_turn = lane is Lane.INTERACTIVE and waited_s >= self._turns_s
        self._turns.taken(lane)
        self._metrics.observe_queue_wait(lane.value, job.taken_s[face.face_index] - job.submitted_s)
        self._note_depth(lane)
        return face

    def _end(self, job: _Job, error: ServiceError) -> None:
        """Let a job end without results: its waiting faces leave the lane, those of workers are no longer known."""
        if job.waiting:
            self._lanes[job.lane].remove(job)
            for _ in job.waiting:
                self._metrics.cancelled("queued")
            job.waiting.clear()
            self._note_depth(job.lane)
        job.taken_s.clear()
        job.restored.clear()
        job.error = error
        job.ended.set()

    def _forget_old_jobs(self) -> None:
        now_s = self._clock()
        for job_id in [job_id for job_id, job in self._jobs.items() if job.forget_s < now_s]:
            self._end(self._jobs.pop(job_id), DeadlineExceeded("the deadline passed long ago"))

    def _note_depth(self, lane: Lane) -> None:
        self._metrics.queue_depth(lane.value, self._depth(lane))
        oldest_s = min((job.submitted_s for job in self._lanes[lane]), default=None)
        self._metrics.queue_oldest(lane.value, None if oldest_s is None else time.time() - (self._clock() - oldest_s))
        if self._depth():
            self._changed.set()
        elif not self._closed:
            self._changed.clear()
