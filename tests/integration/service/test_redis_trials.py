"""A face that ends its workers, in company: who is with it when they end is not given up with it."""

import asyncio
import contextlib

import numpy as np
import pytest

from service.brokers.redis_streams import RedisBroker
from service.core.errors import Abandoned
from service.core.metrics import Metrics
from service.core.types import RestoredFace
from tests.fakes import face_job
from tests.redis_servers import VERSIONS, fresh_prefix, shared_server

LEASE_S = 0.5
LONG_S = 30.0
POISON = "poison"


@pytest.fixture(params=VERSIONS)
async def make_worker(request):
    """A taker of one queue; each call makes another."""
    server, prefix = shared_server(request.param), fresh_prefix()
    async with contextlib.AsyncExitStack() as stack:

        def make(**settings):
            given = {"max_queued_faces": 64, "metrics": Metrics(), "lease_s": LEASE_S, "max_deliveries": 3, **settings}
            broker = RedisBroker(server.url, prefix=prefix, **given)
            stack.push_async_callback(broker.close)
            return broker

        yield make


def photo(job_id, num_faces=1):
    return [face_job(job_id, index, size_px=8) for index in range(num_faces)]


async def finish(worker, jobs):
    picture = np.zeros((4, 4, 3), np.float32)
    for job in jobs:
        await worker.complete(RestoredFace(job.job_id, job.face_index, picture, picture))


async def test_its_company_survives(make_worker):
    gateway = make_worker()
    harmless = [f"photo {number}" for number in range(6)]
    for job_id in [*harmless[:3], POISON, *harmless[3:]]:
        await gateway.submit(photo(job_id))
    waiting = asyncio.create_task(gateway.results(POISON, None))
    ended, worker = 0, make_worker()
    while not waiting.done():
        jobs = await worker.take(4, LEASE_S)
        if any(job.job_id == POISON for job in jobs):
            ended, worker = ended + 1, make_worker()
        else:
            await finish(worker, jobs)
    with pytest.raises(Abandoned):
        await waiting
    assert ended == 3
    for job_id in harmless:
        assert len(await gateway.results(job_id, LONG_S)) == 1


async def test_a_face_on_trial_is_alone_from_beginning_to_end(make_worker):
    gateway, busy, idle = (make_worker(max_deliveries=2, lease_s=2.0) for _ in range(3))
    await gateway.submit(photo("held"))
    (held,) = await busy.take(1, LONG_S)
    await gateway.submit(photo(POISON))
    assert len(await make_worker(max_deliveries=2).take(1, LONG_S)) == 1
    while not (suspects := await idle.take(4, 0.1)):
        assert await busy.beat({held.key: 1}) == set()
    assert [job.job_id for job in suspects] == [POISON]
    await gateway.submit(photo("late", 3))
    assert await idle.take(4, 0) == []
    await idle.hand_back(suspects)
    assert await busy.take(4, 0) == []
    await finish(busy, [held])
    assert [job.job_id for job in await busy.take(4, 0)] == [POISON]
    await finish(busy, suspects)
    assert [job.job_id for job in await busy.take(4, 0)] == ["late"] * 3
    assert len(await gateway.results(POISON, LONG_S)) == 1
