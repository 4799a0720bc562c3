"""A photo that the loop of photos loses to another gateway, and that comes back."""

import asyncio

from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.core.jobs import JobState
from service.core.metrics import Metrics
from service.runner import PhotoRunner
from tests.job_queues import LONG_S, end_of, photo, result_of


class Regained(MemoryJobQueue):
    """A queue that gives a photo to another gateway, and back while it is still being dropped here."""

    def __init__(self):
        limits = JobLimits(max_queued_photos=16, max_queued_bytes=10**7, result_ttl_s=60, max_result_bytes=10**7)
        super().__init__(limits, metrics=Metrics())
        self.photo = None
        self.lost = asyncio.Event()
        self.regained = asyncio.Event()

    async def beat(self, job_ids):
        if self.lost.is_set():
            return await super().beat(job_ids)
        self.lost.set()
        return set(job_ids)

    async def take(self, wait_s):
        if self.lost.is_set() and not self.regained.is_set():
            self.regained.set()
            return self.photo
        self.photo = await super().take(wait_s) or self.photo
        return None if self.regained.is_set() or self.lost.is_set() else self.photo


class SlowToDrop:
    """A gateway whose first attempt ends only when it is cancelled, and not before the photo has come back."""

    def __init__(self, regained):
        self.regained = regained
        self.attempts = 0

    async def work_off(self, job, *_, **__):
        self.attempts += 1
        if self.attempts == 1:
            try:
                await asyncio.Event().wait()
            finally:
                await self.regained.wait()
        return result_of(job.job_id)


async def test_a_photo_that_comes_back_while_it_is_dropped_is_begun_again():
    jobs, stop = Regained(), asyncio.Event()
    gateway = SlowToDrop(jobs.regained)
    runner = asyncio.create_task(PhotoRunner(jobs, gateway, at_once=2, pause_s=0.01, beat_s=0.01).run(stop))
    await jobs.admit(photo("a"))
    try:
        assert await end_of(jobs, "a") is JobState.SUCCEEDED
    finally:
        stop.set()
        await asyncio.wait_for(runner, LONG_S)
        await jobs.close()
    assert gateway.attempts == 2
