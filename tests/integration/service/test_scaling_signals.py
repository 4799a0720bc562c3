"""What the autoscaler of `k8s/` reads in Redis, on real servers: an entry per waiting photo and per face under way."""

import pytest
from redis.asyncio import Redis

from service.brokers.redis_streams import RedisBroker
from service.core.metrics import Metrics
from service.core.types import Lane, RestoredFace
from tests.fakes import face_job
from tests.kubernetes import of_kind, written
from tests.redis_servers import VERSIONS, fresh_prefix, shared_server

TRIGGERS = of_kind((document for _, document in written()), "ScaledObject")["latent-pmrf-worker"]["spec"]["triggers"]
PREFIX = "{latent-pmrf}:TAG"
GROUP = "takers"


class Deployment:
    """A queue of faces, and a client that looks at it from outside."""

    def __init__(self, url):
        self.prefix = fresh_prefix()
        self.broker = RedisBroker(url, max_queued_faces=64, metrics=Metrics(), prefix=self.prefix)
        self.redis = Redis.from_url(url, decode_responses=True)

    def streams(self):
        return {trigger["name"]: trigger["metadata"]["stream"].replace(PREFIX, self.prefix) for trigger in TRIGGERS}

    async def lengths(self):
        """What the triggers see."""
        return {name: await self.redis.xlen(stream) for name, stream in self.streams().items()}

    async def take(self, faces):
        taken = []
        while len(taken) < faces:
            taken += await self.broker.take(faces - len(taken), 5.0)
        return taken


@pytest.fixture(params=VERSIONS)
async def deployment(request):
    made = Deployment(shared_server(request.param).url)
    yield made
    await made.broker.close()
    await made.redis.aclose()


def photo(name, faces=1, lane=Lane.INTERACTIVE):
    return [face_job(name, index, lane=lane) for index in range(faces)]


async def test_before_anything_happens_there_is_nothing_to_do(deployment):
    assert await deployment.lengths() == {"interactive": 0, "batch": 0}


async def test_waiting_photos_and_faces_under_way_are_counted(deployment):
    for number in range(5):
        await deployment.broker.submit(photo(f"now-{number}"))
    await deployment.broker.submit(photo("later", lane=Lane.BATCH))
    assert await deployment.lengths() == {"interactive": 5, "batch": 1}
    await deployment.take(4)
    assert await deployment.lengths() == {"interactive": 5, "batch": 1}


async def test_a_group_photo_is_one_entry_and_one_of_each_face_under_way(deployment):
    await deployment.broker.submit(photo("group", faces=6))
    assert (await deployment.lengths())["interactive"] == 1
    await deployment.take(3)
    assert (await deployment.lengths())["interactive"] == 4


async def test_what_has_ended_is_not_counted(deployment):
    await deployment.broker.submit(photo("done"))
    (job,) = await deployment.take(1)
    await deployment.broker.complete(RestoredFace(job.job_id, job.face_index, job.crop, job.crop))
    assert await deployment.lengths() == {"interactive": 0, "batch": 0}


async def test_what_was_withdrawn_while_it_waited_is_not_counted(deployment):
    for number in range(3):
        await deployment.broker.submit(photo(f"now-{number}"))
    for number in range(3):
        await deployment.broker.cancel(f"now-{number}")
    assert await deployment.lengths() == {"interactive": 0, "batch": 0}


async def test_it_is_the_group_s_lag_and_its_pending_entries(deployment):
    for number in range(5):
        await deployment.broker.submit(photo(f"now-{number}"))
    await deployment.take(2)
    stream = deployment.streams()["interactive"]
    pending = (await deployment.redis.xpending(stream, GROUP))["pending"]
    (group,) = await deployment.redis.xinfo_groups(stream)
    assert pending == 2
    assert group.get("lag", 3) == 3  # 6.2 tells none
    assert (await deployment.lengths())["interactive"] == 5
