"""In which order every queue hands out faces: lanes, and turns of photos."""

import contextlib
from itertools import groupby

import pytest

from service.composition.queues import open_faces
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.types import Lane
from tests.bundle import tiny_manifest
from tests.face_queues import drain, names, photo
from tests.redis_servers import fresh_prefix, shared_server


async def test_the_interactive_lane_comes_first(broker):
    await broker.submit(photo("batch", 3, lane=Lane.BATCH))
    await broker.submit(photo("interactive", 3))
    assert {job.job_id for job in await broker.take(3, 0)} == {"interactive"}


async def test_photos_take_turns_face_by_face(broker):
    for job_id, num_faces in (("group", 4), ("family", 3), ("portrait", 1)):
        await broker.submit(photo(job_id, num_faces))
    taken = [job.job_id[0] for job in await drain(broker)]
    assert "".join(taken) == "gfp" + "gf" * 2 + "g"


async def test_who_has_taken_turns_for_long_enough_keeps_the_next_one(make_broker):
    async with make_broker(max_queued_faces=64, turns_s=0) as broker:
        for job_id, num_faces in (("group", 4), ("family", 3), ("portrait", 1)):
            await broker.submit(photo(job_id, num_faces))
        taken = [(await broker.take(1, 0))[0]]
        await broker.submit(photo("late", 1))
        taken += await drain(broker)
        assert "".join(job.job_id[0] for job in taken).startswith("gfp")
        assert [job_id for job_id, _ in groupby(job.job_id for job in taken[3:])] == ["group", "late", "family"]
        assert sorted(names(taken)) == sorted(
            [*names(photo("group", 4)), *names(photo("family", 3)), ("portrait", 0), ("late", 0)]
        )


async def test_a_photo_that_keeps_its_turn_can_be_withdrawn(make_broker):
    async with make_broker(max_queued_faces=64, turns_s=0) as broker:
        await broker.submit(photo("group", 5))
        await broker.submit(photo("portrait"))
        assert names(await broker.take(3, 0)) == [("group", 0), ("portrait", 0), ("group", 1)]
        await broker.cancel("group")
        assert await drain(broker) == []
        assert await broker.depth() == 0


async def test_photos_of_the_batch_lane_always_take_turns(make_broker):
    async with make_broker(max_queued_faces=64, turns_s=0) as broker:
        await broker.submit(photo("a", 3, lane=Lane.BATCH))
        await broker.submit(photo("b", 3, lane=Lane.BATCH))
        assert "".join(job.job_id for job in await drain(broker)) == "ababab"


async def test_the_batch_lane_is_never_starved(broker):
    await broker.submit(photo("batch", 3, lane=Lane.BATCH))
    await broker.submit(photo("interactive", 40))
    first = [(await broker.take(1, 0))[0].job_id for _ in range(20)]
    assert 1 <= first.count("batch") <= 3
    assert first.count("interactive") > first.count("batch")


async def test_a_worker_with_room_for_interactive_faces_only_gets_no_others(broker):
    await broker.submit(photo("batch", 2, lane=Lane.BATCH))
    assert await broker.take_interactive(4) == []
    await broker.submit(photo("interactive", 7))
    assert names(await broker.take_interactive(6)) == [("interactive", index) for index in range(6)]
    assert await broker.depth() == 3
    assert {job.job_id for job in await broker.take(3, 0)} == {"batch", "interactive"}
    await broker.close()
    assert await broker.take_interactive(4) == []


@pytest.mark.parametrize("version", [None, "6.2", "7"], ids=["memory", "redis 6.2", "redis 7"])
@pytest.mark.parametrize(("objective_s", "expected"), [(6e-6, "gfggff"), (600.0, "gfgfgf")])
async def test_photos_take_turns_for_a_sixth_of_the_latency_objective(version, objective_s, expected):
    shared = {} if version is None else {"redis_url": shared_server(version).url, "redis_prefix": fresh_prefix()}
    async with contextlib.AsyncExitStack() as stack:
        faces = open_faces(Settings(latency_objective_s=objective_s, **shared), tiny_manifest(), Metrics())
        stack.push_async_callback(faces.close)
        await faces.broker.submit(photo("group", 3))
        await faces.broker.submit(photo("family", 3))
        assert "".join(job.job_id[0] for job in await drain(faces.broker)) == expected
