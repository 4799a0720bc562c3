import asyncio
import gc
import time
import weakref

import numpy as np
import pytest

from service.brokers.memory import MemoryBroker
from service.core.errors import Cancelled, InferenceFailed, QueueFull
from service.core.metrics import Metrics
from service.core.types import Lane, RestoredFace
from tests.fakes import face_job


def make_broker(max_queued_faces=64, *, metrics=None, clock=time.monotonic):
    return MemoryBroker(max_queued_faces=max_queued_faces, metrics=metrics or Metrics(), clock=clock)


def photo(job_id, num_faces=1, **fields):
    return [face_job(job_id, index, **fields) for index in range(num_faces)]


def restored(job, picture=None):
    shown = np.zeros((2, 2, 3), np.float32) if picture is None else picture
    return RestoredFace(job.job_id, job.face_index, shown, shown)


async def test_a_group_picture_does_not_hold_up_a_portrait():
    broker = make_broker()
    await broker.submit(photo("group", 10))
    await broker.submit(photo("portrait"))
    taken = await broker.take(4, 0)
    assert [(job.job_id, job.face_index) for job in taken] == [
        ("group", 0),
        ("portrait", 0),
        ("group", 1),
        ("group", 2),
    ]


async def test_a_group_picture_that_has_waited_for_long_keeps_its_turn():
    now = [0.0]
    broker = MemoryBroker(max_queued_faces=64, metrics=Metrics(), turns_s=5, clock=lambda: now[0])
    await broker.submit(photo("group", 6))
    await broker.submit(photo("family", 4))
    taken = await broker.take(2, 0)
    now[0] = 4.9
    taken += await broker.take(2, 0)
    now[0] = 5.0
    taken += await broker.take(6, 0)
    assert "".join(job.job_id[0] for job in taken) == "gfgf" + "gf" + "ggg" + "f"


async def test_every_fifth_face_is_of_the_batch_lane_while_both_are_busy():
    broker = make_broker()
    await broker.submit(photo("interactive", 20))
    await broker.submit(photo("batch", 20, lane=Lane.BATCH))
    lanes = "".join(job.lane.value[0] for job in await broker.take(25, 0))
    assert lanes == "iiiib" * 5


async def test_a_photo_larger_than_the_queue_enters_when_nothing_waits():
    broker = make_broker(max_queued_faces=4)
    await broker.submit(photo("small"))
    with pytest.raises(QueueFull):
        await broker.submit(photo("large", 6))
    await broker.take(1, 0)
    await broker.submit(photo("large", 6))
    assert await broker.depth() == 6


async def retry_after_s(*, face_s, num_faces):
    """What a photo that finds the queue full is told, when faces have taken `face_s` lately."""
    now_s = [0.0]
    broker = make_broker(max_queued_faces=8, clock=lambda: now_s[0])
    for index in range(40):
        await broker.submit(photo(f"earlier {index}"))
        (job,) = await broker.take(1, 0)
        now_s[0] += face_s
        await broker.complete(restored(job))
    await broker.submit(photo("waits", 8))
    with pytest.raises(QueueFull) as refusal:
        await broker.submit(photo("too many", num_faces))
    return refusal.value.extra["retry_after_s"]


async def test_retry_after_follows_the_pace_of_the_workers():
    assert await retry_after_s(face_s=0.1, num_faces=2) == 1
    assert await retry_after_s(face_s=3.0, num_faces=2) == pytest.approx(6, abs=1)
    assert await retry_after_s(face_s=3.0, num_faces=4) == pytest.approx(12, abs=1)
    assert await retry_after_s(face_s=1000.0, num_faces=8) == 60


async def test_faces_restored_side_by_side_count_as_one_pace():
    now_s = [0.0]
    broker = make_broker(max_queued_faces=8, clock=lambda: now_s[0])
    for index in range(20):
        await broker.submit(photo(f"earlier {index}", 4))
        jobs = await broker.take(4, 0)
        now_s[0] += 8.0
        for job in jobs:
            await broker.complete(restored(job))
    await broker.submit(photo("waits", 8))
    with pytest.raises(QueueFull) as refusal:
        await broker.submit(photo("late"))
    assert 2 <= refusal.value.extra["retry_after_s"] <= 8


@pytest.mark.parametrize("ending", ["withdrawn", "failed"])
async def test_a_result_nobody_waits_for_is_not_kept(ending):
    broker = make_broker()
    await broker.submit(photo("a", 2))
    first, second = await broker.take(2, 0)
    kept = np.zeros((2, 2, 3), np.float32)
    seen = weakref.ref(kept)
    await broker.complete(restored(first, kept))
    if ending == "withdrawn":
        await broker.cancel("a")
    else:
        await broker.fail(second, InferenceFailed("no"))
    await broker.complete(restored(first, kept))
    del kept
    gc.collect()
    assert seen() is None


async def test_a_job_whose_owner_vanished_is_forgotten_after_its_deadline():
    now_s = [0.0]
    broker = make_broker(clock=lambda: now_s[0])
    await broker.submit(photo("orphan", 2, deadline_s=time.time() + 100))
    await broker.submit(photo("patient"))
    for now_s[0], waiting in ((110.0, 4), (200.0, 3)):
        await broker.submit(photo(f"at {now_s[0]}"))
        assert await broker.depth() == waiting
    assert {job.job_id for job in await broker.take(8, 0)} == {"patient", "at 110.0", "at 200.0"}
    with pytest.raises(Cancelled):
        await broker.results("orphan", 0)


@pytest.mark.parametrize(
    "faces",
    [
        [],
        [face_job("a", 0), face_job("b", 1)],
        [face_job("a", 0), face_job("a", 0)],
        [face_job("a", 0), face_job("a", 1, lane=Lane.BATCH)],
    ],
    ids=["none", "two photos", "one face twice", "two lanes"],
)
async def test_what_is_not_one_photo_is_refused(faces):
    with pytest.raises(ValueError, match="one photo"):
        await make_broker().submit(faces)


async def test_a_queue_needs_room():
    with pytest.raises(ValueError, match="max_queued_faces"):
        make_broker(max_queued_faces=0)


async def test_a_closed_queue_does_not_let_a_worker_spin():
    broker = make_broker()
    await broker.close()
    taking = asyncio.create_task(broker.take(1, 30))
    await asyncio.sleep(0.02)
    assert not taking.done()
    taking.cancel()


async def test_metrics_tell_depth_waits_and_withdrawals():
    now_s, metrics = [0.0], Metrics()
    broker = make_broker(metrics=metrics, clock=lambda: now_s[0])
    await broker.submit(photo("a", 3))
    await broker.submit(photo("b", 2, lane=Lane.BATCH))
    now_s[0] = 2.0
    await broker.take(1, 0)
    await broker.cancel("a")
    lines = metrics.render().decode().splitlines()
    assert 'restore_queue_depth{lane="interactive"} 0.0' in lines
    assert 'restore_queue_depth{lane="batch"} 2.0' in lines
    assert 'restore_queue_oldest_age_seconds{lane="interactive"} 0.0' in lines
    oldest = next(line for line in lines if line.startswith('restore_queue_oldest_age_seconds{lane="batch"}'))
    assert float(oldest.split()[-1]) > 0
    assert 'restore_queue_wait_seconds_sum{lane="interactive"} 2.0' in lines
    assert 'restore_cancelled_total{phase="queued"} 2.0' in lines
