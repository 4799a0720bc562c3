"""The loop of photos, on a real queue of photos and a real gateway; the queue of faces and the detector are fakes."""

import asyncio
import contextlib
import logging
import time

import pytest

from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.core.admission import Admission
from service.core.errors import (
    DECODERS_KILLED,
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    InferenceFailed,
    QueueFull,
    ServiceError,
)
from service.core.jobs import JobState, PhotoJob, Progress
from service.core.metrics import Metrics
from service.core.origin import Origin
from service.core.settings import Settings
from service.core.tasks import end_tasks
from service.core.threads import Threads
from service.core.types import Lane, RestoreOptions, Upload
from service.gateway import Gateway
from service.runner import PhotoRunner
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector, UnsteadyBroker
from tests.pictures import encoded

LONG_S = 30.0


class Running:
    """A runner at work: its queues, and how to stop it."""

    def __init__(self, pool, jobs, broker, *, places=4, request_timeout_s=30.0, **times):
        self.metrics = Metrics()
        self.jobs = jobs or make_jobs(metrics=self.metrics)
        self.broker = broker or EchoBroker()
        self.gateway = Gateway(
            broker=self.broker,
            detector=FakeDetector(),
            manifest=tiny_manifest(),
            settings=Settings(request_timeout_s=request_timeout_s),
            metrics=self.metrics,
            pool=pool,
            admission=Admission(places, 0),
        )
        self.stop = asyncio.Event()
        runner = PhotoRunner(self.jobs, self.gateway, **{"pause_s": 0.01, "beat_s": 0.01, **times})
        self.task = asyncio.create_task(runner.run(self.stop))

    async def admit(self, job_id, data=None, *, deadline_s=None, **fields):
        job = PhotoJob(
            job_id=job_id,
            upload=Upload(encoded() if data is None else data),
            options=RestoreOptions(seed=7),
            deadline_s=time.time() + 3600 if deadline_s is None else deadline_s,
            **{"lane": Lane.INTERACTIVE, **fields},
        )
        await self.jobs.admit(job)

    async def state(self, job_id, *states):
        """The status of a job as soon as it is in one of these states, or any final one."""
        async with asyncio.timeout(LONG_S), contextlib.aclosing(self.jobs.watch(job_id)) as statuses:
            async for status in statuses:
                if status.state in states or status.state.final:
                    return status

    def counted(self, line):
        return line in self.metrics.render().decode().splitlines()


def make_jobs(kind=MemoryJobQueue, *, metrics=None):
    limits = JobLimits(max_queued_photos=16, max_queued_bytes=10**7, result_ttl_s=60, max_result_bytes=10**7)
    return kind(limits, metrics=metrics or Metrics())


@contextlib.asynccontextmanager
async def running(broker=None, *, jobs=None, **parts):
    with Threads(2) as pool:
        made = Running(pool, jobs, broker, **parts)
        yield made
        if not made.task.done():
            made.stop.set()
            await asyncio.wait_for(made.task, LONG_S)
        await made.jobs.close()
    assert made.gateway.admission.active == 0


async def test_a_photo_is_restored_and_its_result_kept():
    async with running() as parts:
        await parts.admit("a")
        assert (await parts.state("a")).state is JobState.SUCCEEDED
        report = (await parts.jobs.result("a")).restoration.report
        assert (report.id, report.seed, report.faces[0].status) == ("a", 7, "restored")
        assert parts.counted('restore_photos_total{outcome="succeeded"} 1.0')


async def test_the_faces_are_in_the_photos_lane():
    async with running() as parts:
        for lane in Lane:
            await parts.admit(lane.value, lane=lane)
            await parts.state(lane.value)
            assert {face.lane for face in parts.broker.jobs[lane.value]} == {lane}


async def test_an_error_of_the_photo_is_the_jobs():
    async with running() as parts:
        await parts.admit("a", b"hello, this is a text")
        status = await parts.state("a")
        assert (status.state, status.failure.code) == (JobState.FAILED, "unsupported_format")
        assert parts.counted('restore_photos_total{outcome="unsupported_format"} 1.0')
        assert parts.counted('restore_rejected_total{reason="unsupported_format"} 1.0')
        await parts.admit("b")
        assert (await parts.state("b")).state is JobState.SUCCEEDED


async def test_the_request_that_brought_a_job_is_known_to_its_faces_and_to_its_failure():
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    origin = Origin("req-1", f"00-{trace}-00f067aa0ba902b7-01")
    async with running() as parts:
        await parts.admit("a", origin=origin)
        await parts.admit("b", b"hello, this is a text", origin=origin)
        await parts.state("a")
        (face,) = parts.broker.jobs["a"]
        assert (face.origin.request_id, face.origin.traceparent) == ("req-1", origin.traceparent)
        extra = (await parts.state("b")).failure.extra
        assert (extra["request_id"], extra["trace_id"]) == ("req-1", trace)


async def test_a_job_that_waited_too_long_is_not_begun():
    async with running() as parts:
        await parts.admit("late", deadline_s=time.time() - 1)
        assert (await parts.state("late")).failure.code == DeadlineExceeded.code
        assert parts.broker.jobs == {}


async def test_a_photo_that_takes_too_long_fails_and_its_faces_are_withdrawn():
    async with running(EchoBroker(hold=asyncio.Event()), request_timeout_s=2) as parts:
        await parts.admit("a")
        assert (await parts.state("a")).failure.code == DeadlineExceeded.code
        assert parts.broker.withdrawn == ["a"]


class Telling(EchoBroker):
    """Says how far the faces are before it waits."""

    async def results(self, job_id, timeout_s, on_progress=None, on_preview=None):
        on_progress(Progress(1, 0, 4, 1))
        on_progress(Progress(1, 0, 4, 3))
        return await super().results(job_id, timeout_s, on_progress, on_preview)


async def test_without_workers_no_photo_is_taken_and_none_fails_for_their_absence():
    jobs, broker, seen = make_jobs(), EchoBroker(hold=asyncio.Event()), []
    admitted = asyncio.Event()

    async def has_workers():
        await admitted.wait()
        seen.append((await jobs.status("a")).state)
        if len(seen) < 6:
            return len(seen) == 3
        broker.hold.set()
        return True

    async with running(broker, jobs=jobs, has_workers=has_workers, request_timeout_s=1, at_once=1) as parts:
        await parts.admit("a")
        admitted.set()
        assert (await parts.state("a")).state is JobState.SUCCEEDED
    queued, running_ = JobState.QUEUED, JobState.RUNNING
    assert seen[:6] == [queued, queued, queued, running_, queued, queued]


async def test_progress_reaches_those_who_watch():
    hold = asyncio.Event()
    async with running(Telling(hold=hold)) as parts:
        await parts.admit("a")
        seen = []
        async with contextlib.aclosing(parts.jobs.watch("a")) as statuses:
            async for status in statuses:
                seen.append(status.progress)
                if status.progress == Progress(1, 0, 4, 3):
                    hold.set()
        assert Progress(1, 0, 4, 3) in seen


async def test_so_many_at_once_and_no_more():
    hold = asyncio.Event()
    async with running(EchoBroker(hold=hold), at_once=2) as parts:
        for job_id in "abc":
            await parts.admit(job_id)
        for job_id in "ab":
            await parts.state(job_id, JobState.RUNNING)
        await asyncio.sleep(0.05)
        assert (await parts.jobs.status("c")).state is JobState.QUEUED
        hold.set()
        for job_id in "abc":
            assert (await parts.state(job_id)).state is JobState.SUCCEEDED


async def test_a_cancelled_job_frees_its_place_and_its_faces():
    hold = asyncio.Event()
    async with running(EchoBroker(hold=hold), at_once=1) as parts:
        await parts.admit("gone")
        await parts.admit("next")
        await parts.broker.submitted.wait()
        await parts.jobs.cancel("gone")
        await parts.state("next", JobState.RUNNING)
        assert parts.broker.withdrawn == ["gone"]
        hold.set()
        assert (await parts.state("next")).state is JobState.SUCCEEDED
        assert parts.counted('restore_photos_total{outcome="cancelled"} 1.0')


async def test_jobs_wait_for_room_that_others_would_be_refused():
    async with running(places=1) as parts:
        async with parts.gateway.admission.place():
            await parts.admit("a")
            await parts.state("a", JobState.RUNNING)
            parts.gateway.admission.close()
        assert (await parts.state("a")).state is JobState.SUCCEEDED


class Crowded(EchoBroker):
    """A queue of faces that has no room at first."""

    refusals = 2

    async def submit(self, faces):
        if self.refusals:
            self.refusals -= 1
            raise QueueFull("full", retry_after_s=0.01)
        await super().submit(faces)


async def test_a_full_lane_of_faces_is_waited_out():
    async with running(Crowded()) as parts:
        await parts.admit("a")
        assert (await parts.state("a")).state is JobState.SUCCEEDED


@pytest.mark.parametrize("error", [DependencyUnavailable("no answer"), Cancelled("withdrawn by another gateway")])
async def test_a_photo_is_begun_again_when_its_surroundings_fail(error):
    async with running(UnsteadyBroker(error, error)) as parts:
        await parts.admit("a")
        assert (await parts.state("a")).state is JobState.SUCCEEDED


async def test_it_is_not_begun_again_without_end():
    async with running(UnsteadyBroker(*[Cancelled("withdrawn")] * 99)) as parts:
        await parts.admit("a")
        assert (await parts.state("a")).failure.code == "dependency_unavailable"
        assert len(parts.broker.errors) > 90
    killed = DependencyUnavailable("killed", **{DECODERS_KILLED: 2})
    async with running(UnsteadyBroker(*[killed] * 99)) as parts:
        await parts.admit("a")
        assert (await parts.state("a")).failure.code == "dependency_unavailable"
        assert len(parts.broker.errors) > 90
    async with running(UnsteadyBroker(*[DependencyUnavailable("no answer")] * 9999)) as parts:
        await parts.admit("a", deadline_s=time.time() + 1.5)
        assert (await parts.state("a")).failure.code == "dependency_unavailable"


async def test_a_failed_network_is_not_tried_again():
    async with running(UnsteadyBroker(InferenceFailed("velocity"))) as parts:
        await parts.admit("a")
        assert (await parts.state("a")).failure.code == "inference_failed"


async def test_an_unexpected_error_fails_the_photo_and_not_the_runner(caplog):
    defect = ZeroDivisionError("a secret")
    async with running(UnsteadyBroker(defect)) as parts:
        await parts.admit("a")
        failure = (await parts.state("a")).failure
        assert failure.code == "internal"
        assert "secret" not in failure.detail
        await parts.admit("b")
        assert (await parts.state("b")).state is JobState.SUCCEEDED
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info[1] is defect


class FlakyJobs(MemoryJobQueue):
    """A queue of photos whose server is away for the first calls of one method."""

    method = ""
    failures = 3

    def _fail_now(self, method):
        if method == self.method and self.failures:
            self.failures -= 1
            raise DependencyUnavailable("the queue does not answer")

    async def take(self, wait_s):
        self._fail_now("take")
        return await super().take(wait_s)

    async def beat(self, job_ids):
        self._fail_now("beat")
        return await super().beat(job_ids)

    async def note(self, job_id, progress):
        self._fail_now("note")
        await super().note(job_id, progress)

    async def finish(self, restoration):
        self._fail_now("finish")
        return await super().finish(restoration)

    async def fail(self, job_id, error):
        self._fail_now("fail")
        return await super().fail(job_id, error)


@pytest.mark.parametrize("method", ["take", "beat", "note", "finish", "fail"])
async def test_nothing_is_lost_while_the_queue_is_away(method, caplog):
    jobs = make_jobs(FlakyJobs)
    jobs.method = method
    hold = asyncio.Event()
    async with running(Telling(hold=hold), jobs=jobs) as parts:
        await parts.admit("a", b"a text" if method == "fail" else None)
        await parts.state("a", JobState.RUNNING)
        asyncio.get_running_loop().call_later(0.1, hold.set)
        ended = await parts.state("a")
        assert ended.state is (JobState.FAILED if method == "fail" else JobState.SUCCEEDED)
        if method == "fail":
            assert ended.failure.code == "unsupported_format"
    assert jobs.failures < 3
    told = caplog.text.count("does not answer: the queue does not answer;"), caplog.text.count("answers again")
    assert told == ((1, 1) if method in ("take", "finish", "fail") else (0, 0))


async def test_a_photo_whose_end_cannot_be_seen_leaves_its_place(caplog):
    class Unreadable(MemoryJobQueue):
        async def status(self, job_id):
            raise ServiceError("the queue holds a Progress of version 2")

    async with running(Telling(hold=asyncio.Event()), jobs=make_jobs(Unreadable), at_once=1) as parts:
        await parts.admit("a")
        await parts.broker.submitted.wait()
        await parts.jobs.cancel("a")
        await parts.admit("b", b"a text")
        assert (await parts.state("b")).state is JobState.FAILED
    assert "unexpected error at the end of a photo" in caplog.text


async def test_stopping_finishes_what_was_taken_and_leaves_the_rest():
    hold = asyncio.Event()
    async with running(EchoBroker(hold=hold), at_once=1) as parts:
        await parts.admit("taken")
        await parts.admit("waits")
        await parts.broker.submitted.wait()
        parts.stop.set()
        hold.set()
        await asyncio.wait_for(parts.task, LONG_S)
        assert (await parts.jobs.status("taken")).state is JobState.SUCCEEDED
        assert (await parts.jobs.status("waits")).state is JobState.QUEUED


async def test_a_queue_that_ends_with_the_process_is_finished_first():
    hold = asyncio.Event()
    async with running(EchoBroker(hold=hold), at_once=1, finish_queue=True) as parts:
        for job_id in "abc":
            await parts.admit(job_id)
        await parts.broker.submitted.wait()
        parts.stop.set()
        hold.set()
        await asyncio.wait_for(parts.task, LONG_S)
        assert [(await parts.jobs.status(job_id)).state for job_id in "abc"] == [JobState.SUCCEEDED] * 3


@pytest.mark.parametrize("finish_queue", [True, False])
async def test_what_is_not_finished_in_time_is_handed_back(finish_queue):
    async with running(EchoBroker(hold=asyncio.Event()), finish_queue=finish_queue) as parts:
        await parts.admit("a")
        await parts.broker.submitted.wait()
        parts.stop.set()
        await end_tasks(parts.task)
        assert parts.broker.withdrawn == ["a"]
        status = await parts.jobs.status("a")
        assert (status.state, status.position) == (JobState.QUEUED, 0)


async def test_a_runner_that_is_cancelled_leaves_no_task_behind():
    with Threads(2) as pool:
        parts = Running(pool, None, EchoBroker(hold=asyncio.Event()))
        await parts.admit("a")
        await parts.broker.submitted.wait()
        parts.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await parts.task
        assert len(asyncio.all_tasks()) == 1
        assert (await parts.jobs.status("a")).state is JobState.QUEUED
        await parts.jobs.close()
