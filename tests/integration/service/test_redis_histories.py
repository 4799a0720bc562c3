"""Random histories of gateways and workers on one Redis, some of which vanish: each photo ends once."""

import asyncio
import contextlib
import random
import zlib

import numpy as np
import pytest
from redis.asyncio import Redis

from service.brokers.redis_streams import RedisBroker
from service.core.errors import Abandoned, Cancelled, InferenceFailed
from service.core.metrics import Metrics
from service.core.types import Lane, RestoredFace
from tests.fakes import face_job
from tests.redis_servers import VERSIONS, fresh_prefix, shared_server

PHOTOS = 200
LONG_S = 60.0
LASTING = {"lane:interactive", "lane:batch", "state", "swept", "dead"}


def shade_of(job_id, face_index):
    """A shade that no other face has, exact in 16 bits."""
    return zlib.crc32(f"{job_id}/{face_index}".encode()) % 65536 / 65535


def restored(job):
    picture = np.full((2, 2, 3), shade_of(*job.key), np.float32)
    return RestoredFace(job.job_id, job.face_index, picture, picture)


class History:
    """What was done to whom, by chance."""

    def __init__(self, seed, make_broker):
        self.chance = random.Random(seed)
        self.make_broker = make_broker
        self.brokers = [make_broker() for _ in range(3)]
        self.sizes = {f"photo-{number}": self.chance.choice([1, 1, 1, 2, 3, 6]) for number in range(PHOTOS)}
        self.endings = []
        self.withdrawn = set()
        self.failed = set()

    async def gateway(self, job_id):
        """Submit, await, perhaps withdraw, each by whichever broker."""
        submitting, awaiting, withdrawing = self.chance.choices(self.brokers, k=3)
        await asyncio.sleep(self.chance.random() * 1.5)
        lane = self.chance.choice(list(Lane))
        await submitting.submit([face_job(job_id, index, size_px=2, lane=lane) for index in range(self.sizes[job_id])])
        if self.chance.random() < 0.2:
            self.withdrawn.add(job_id)
            await asyncio.sleep(self.chance.random() * 0.1)
            await withdrawing.cancel(job_id)
        try:
            self.endings.append((job_id, await awaiting.results(job_id, LONG_S)))
        except (Cancelled, InferenceFailed, Abandoned) as error:
            self.endings.append((job_id, error))

    async def worker(self):
        """Take, and finish, fail or give back what was taken; or vanish over it, and turn up again, late."""
        broker, ghosts = self.make_broker(), []
        while len(self.endings) < PHOTOS:
            taking = asyncio.create_task(broker.take(self.chance.randint(1, 4), 0.02))
            if self.chance.random() < 0.1:
                await asyncio.sleep(0)
                taking.cancel()
            jobs = []
            with contextlib.suppress(asyncio.CancelledError):
                jobs = await taking
            if jobs and self.chance.random() < 0.1:
                ghosts.append((broker, jobs))
                broker = self.make_broker()
            else:
                for job in jobs:
                    await self.end(broker, job)
            if ghosts and self.chance.random() < 0.1:
                ghost, late = ghosts.pop()
                for job in late:
                    await ghost.complete(restored(job))

    async def end(self, broker, job):
        kind = self.chance.random()
        if kind < 0.1:
            await broker.hand_back([job])
        elif kind < 0.13:
            self.failed.add(job.job_id)
            await broker.fail(job, InferenceFailed("by chance"))
        else:
            await broker.beat({job.key: self.chance.randint(0, 2)})
            await broker.complete(restored(job))


@pytest.mark.parametrize(("seed", "version"), list(enumerate(VERSIONS)))
async def test_every_photo_ends_once_and_as_it_should(version, seed):
    server, prefix = shared_server(version), fresh_prefix()
    async with contextlib.AsyncExitStack() as stack:
        client = Redis.from_url(server.url)
        stack.push_async_callback(client.aclose)

        def make_broker():
            broker = RedisBroker(server.url, max_queued_faces=10_000, metrics=Metrics(), prefix=prefix, lease_s=0.3)
            stack.push_async_callback(broker.close)
            return broker

        history = History(seed, make_broker)
        async with asyncio.timeout(LONG_S):
            await asyncio.gather(
                *(history.gateway(job_id) for job_id in history.sizes), *(history.worker() for _ in range(3))
            )
        assert sorted(job_id for job_id, _ in history.endings) == sorted(history.sizes)
        for job_id, ending in history.endings:
            if isinstance(ending, list):
                assert [(face.job_id, face.face_index) for face in ending] == [
                    (job_id, index) for index in range(history.sizes[job_id])
                ]
                for face in ending:
                    assert (face.sample == np.float32(shade_of(job_id, face.face_index))).all()
            elif isinstance(ending, Cancelled):
                assert job_id in history.withdrawn
            elif isinstance(ending, InferenceFailed):
                assert job_id in history.failed
        letters = [letter[b"job"].decode() for _, letter in await client.xrange(f"{prefix}:faces:dead")]
        given_up = [job_id for job_id, ending in history.endings if isinstance(ending, Abandoned)]
        assert len(set(letters)) == len(letters)
        assert set(given_up) <= set(letters)
        whole = sum(isinstance(ending, list) for _, ending in history.endings)
        assert whole > PHOTOS / 2
        assert await history.brokers[0].depth() == 0
        left = {key.decode().split(":faces:")[1] async for key in client.scan_iter(f"{prefix}*")}
        assert left <= LASTING
        for lane in Lane:
            assert await client.xlen(f"{prefix}:faces:lane:{lane}") == 0
