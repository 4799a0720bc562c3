"""Queues of faces for tests: every implementation by its factory, and what tests put in and take out."""

import contextlib
import math

import numpy as np

from service.brokers.memory import MemoryBroker
from service.brokers.redis_streams import RedisBroker
from service.core.metrics import Metrics
from service.core.types import RestoredFace
from tests.fakes import face_job
from tests.redis_servers import fresh_prefix, shared_server


@contextlib.asynccontextmanager
async def memory(max_queued_faces, turns_s=math.inf):
    broker = MemoryBroker(max_queued_faces=max_queued_faces, metrics=Metrics(), turns_s=turns_s)
    yield broker
    await broker.close()


@contextlib.asynccontextmanager
async def on_redis(version, max_queued_faces, turns_s=math.inf, query=""):
    broker = RedisBroker(
        shared_server(version).url + query,
        max_queued_faces=max_queued_faces,
        metrics=Metrics(),
        prefix=fresh_prefix(),
        turns_s=turns_s,
    )
    yield broker
    await broker.close()


def redis_6_2(max_queued_faces, turns_s=math.inf):
    return on_redis("6.2", max_queued_faces, turns_s)


def redis_7(max_queued_faces, turns_s=math.inf):
    return on_redis("7", max_queued_faces, turns_s)


def redis_7_by_resp_3(max_queued_faces, turns_s=math.inf):
    return on_redis("7", max_queued_faces, turns_s, "?protocol=3")


BROKERS = [memory, redis_6_2, redis_7, redis_7_by_resp_3]


def photo(job_id, num_faces=1, **fields):
    return [face_job(job_id, index, grey=3 * index, size_px=8, **fields) for index in range(num_faces)]


def restored(job, shade=0.5):
    picture = np.full((4, 4, 3), shade, np.float32)
    return RestoredFace(job.job_id, job.face_index, picture, picture, {"velocity": 5.0})


def names(jobs):
    return [(job.job_id, job.face_index) for job in jobs]


async def drain(broker):
    taken = []
    while jobs := await broker.take(8, 0):
        taken += jobs
    return taken
