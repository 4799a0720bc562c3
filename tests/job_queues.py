"""The queues of photos, made for a test, and what to put into them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.brokers.redis_jobs import RedisJobQueue, SharedJobLimits
from service.core.jobs import PhotoJob
from service.core.metrics import Metrics
from service.core.types import FaceReport, FaceStatus, Lane, OutputFormat, Report, Restoration, RestoreOptions, Upload
from tests.redis_servers import fresh_prefix, shared_server

SOON_S = 0.02
LONG_S = 30.0
HOOK = "https://example.org/hook?of=mine"
LIMITS = {"max_queued_photos": 64, "result_ttl_s": 3600.0, "notice_lease_s": 60.0}


@contextlib.asynccontextmanager
async def memory(*, metrics=None, **limits):
    limits = JobLimits(**{**LIMITS, "max_queued_bytes": 2**20, "max_result_bytes": 2**20, **limits})
    queue = MemoryJobQueue(limits, metrics=metrics or Metrics())
    yield queue
    await queue.close()


@contextlib.asynccontextmanager
async def on_redis(version, query="", *, metrics=None, **limits):
    limits = SharedJobLimits(**{**LIMITS, **limits})
    metrics, prefix = metrics or Metrics(), fresh_prefix()
    queue = RedisJobQueue(shared_server(version).url + query, limits, metrics=metrics, prefix=prefix)
    yield queue
    await queue.close()


def redis_6_2(**limits):
    return on_redis("6.2", **limits)


def redis_7(**limits):
    return on_redis("7", **limits)


def redis_7_by_resp_3(**limits):
    return on_redis("7", "?protocol=3", **limits)


JOB_QUEUES = [memory, redis_6_2, redis_7, redis_7_by_resp_3]
"""Every implementation; each is made with `LIMITS`, or others by their names."""


def photos_counted(metrics):
    """How many photos the metrics know by each outcome; those that failed are among the refused, too."""
    found = re.findall(r'^restore_(\w+)_total\{\w+="(\w+)"\} (\S+)$', metrics.render().decode(), re.M)
    counts = {(name, what): int(float(count)) for name, what, count in found if float(count)}
    outcomes = {what: count for (name, what), count in counts.items() if name == "photos"}
    for what in outcomes.keys() - {"succeeded", "cancelled"}:
        assert counts["rejected", what] == outcomes[what]
    return outcomes


def photo(job_id, lane=Lane.INTERACTIVE, **fields):
    options = RestoreOptions(seed=len(job_id))
    upload = Upload(f"bytes of {job_id}".encode())
    settings = {"upload": upload, "deadline_s": time.time() + 3600, "options": options, **fields}
    return PhotoJob(job_id=job_id, lane=lane, **settings)


def result_of(job_id, data=b"\x00picture\xff"):
    faces = (
        FaceReport(0, (1.5, 2.0, 3.0, 4.25), ((0.5, 1.0),) * 5, 0.875, FaceStatus.RESTORED, None, 0.03125),
        FaceReport(1, (0.0, 0.0, 9.0, 9.0), None, None, FaceStatus.SKIPPED, "not_selected"),
    )
    report = Report(
        job_id, "m@1", 640, 480, 2**63 - 1, 10, 0.25, faces, {"decode": 1.5, "total": 80.125}, OutputFormat.WEBP
    )
    return Restoration(data, report)


async def take_all(queue):
    taken = []
    while (job := await queue.take(0)) is not None:
        taken.append(job)
    return taken


class Watching:
    """Reads a watch to its end beside the test."""

    def __init__(self, queue, job_id):
        self.seen = []
        self._more = asyncio.Event()
        self.task = asyncio.create_task(self._read(queue, job_id))

    async def _read(self, queue, job_id):
        async with contextlib.aclosing(queue.watch(job_id)) as statuses:
            async for status in statuses:
                self.seen.append(status)
                self._more.set()

    async def until(self, condition):
        async with asyncio.timeout(LONG_S):
            while not any(condition(status) for status in self.seen):
                self._more.clear()
                await self._more.wait()

    async def end(self):
        await asyncio.wait_for(self.task, LONG_S)
        return self.seen


async def end_of(queue, job_id):
    """The state in which a job ends."""
    return (await Watching(queue, job_id).end())[-1].state
