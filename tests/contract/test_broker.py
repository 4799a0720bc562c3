"""What every queue promises. A new broker joins by its factory in `tests.face_queues.BROKERS`."""

import asyncio
import contextlib
from itertools import chain

import pytest

from service.core.errors import (
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    Draining,
    InferenceFailed,
    QueueFull,
)
from service.core.interfaces import Broker
from service.core.jobs import Progress
from service.core.types import Lane
from tests.face_queues import drain, names, photo, restored
from tests.rpc_serving import until

SOON_S = 0.02
LONG_S = 30.0
PIXEL = 1 / 131070 + 1e-7  # pixels may travel as 16-bit numbers


def at_work(jobs, steps=1):
    return {job.key: steps for job in jobs}


def test_it_implements_the_protocol(broker):
    assert isinstance(broker, Broker)


async def test_a_worker_gets_what_was_submitted(broker):
    (sent,) = photo("a", num_steps=9, seed=2**63 - 1, deadline_s=4e9, lane=Lane.BATCH)
    await broker.submit([sent])
    (job,) = await broker.take(1, LONG_S)
    assert (job.crop == sent.crop).all()
    for field in ("job_id", "face_index", "num_steps", "seed", "lane", "deadline_s"):
        assert getattr(job, field) == getattr(sent, field)


async def test_each_face_is_handed_out_once_in_bites_of_the_workers_choice(broker):
    await broker.submit(photo("a", 5))
    assert await broker.depth() == 5
    bites = [await broker.take(2, 0) for _ in range(4)]
    assert [len(bite) for bite in bites] == [2, 2, 1, 0]
    assert sorted(names(chain.from_iterable(bites))) == [("a", index) for index in range(5)]
    assert await broker.depth() == 0


async def test_an_empty_queue_is_told_after_the_wait(broker):
    assert await broker.take(4, 0) == []
    assert await broker.take(4, SOON_S) == []


async def test_a_waiting_worker_wakes_when_a_photo_comes(broker):
    taking = asyncio.create_task(broker.take(4, LONG_S))
    await asyncio.sleep(SOON_S)
    await broker.submit(photo("a", 2))
    assert len(await taking) == 2


async def test_several_workers_share_the_faces(broker):
    workers = [asyncio.create_task(broker.take(3, LONG_S)) for _ in range(4)]
    await asyncio.sleep(SOON_S)
    for job_id in "abcd":
        await broker.submit(photo(job_id, 3))
    taken = [*chain.from_iterable(await asyncio.gather(*workers)), *await drain(broker)]
    assert sorted(names(taken)) == [(job_id, index) for job_id in "abcd" for index in range(3)]


async def test_a_worker_that_gives_up_waiting_takes_no_face_with_it(broker):
    taking = asyncio.create_task(broker.take(4, LONG_S))
    await asyncio.sleep(SOON_S)
    await broker.submit(photo("a"))
    taking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        assert await taking == []
    assert len(await drain(broker)) == 1


async def test_a_photo_is_admitted_whole_or_not_at_all(make_broker):
    async with make_broker(max_queued_faces=4) as broker:
        await broker.submit(photo("a", 3))
        with pytest.raises(QueueFull) as refusal:
            await broker.submit(photo("b", 2))
        assert refusal.value.extra["retry_after_s"] >= 1
        assert await broker.depth() == 3
        await broker.submit(photo("c", 1))
        assert {job.job_id for job in await drain(broker)} == {"a", "c"}
        await broker.submit(photo("b", 2))
        assert len(await drain(broker)) == 2


async def test_a_full_batch_lane_leaves_room_for_interactive_photos(make_broker):
    async with make_broker(max_queued_faces=2) as broker:
        await broker.submit(photo("batch", 2, lane=Lane.BATCH))
        with pytest.raises(QueueFull):
            await broker.submit(photo("more", 1, lane=Lane.BATCH))
        await broker.submit(photo("interactive", 2))
        assert await broker.depth() == 4


async def test_results_come_in_the_order_of_the_faces(broker):
    await broker.submit(photo("a", 3))
    for job in reversed(await broker.take(3, 0)):
        await broker.complete(restored(job, shade=job.face_index / 10))
    results = await broker.results("a", LONG_S)
    assert [result.face_index for result in results] == [0, 1, 2]
    for result in results:
        assert result.sample == pytest.approx(result.face_index / 10, abs=PIXEL)
        assert result.timings_ms["velocity"] == 5.0


async def test_results_tell_how_long_a_face_waited(broker):
    await broker.submit(photo("a"))
    await asyncio.sleep(2 * SOON_S)
    (job,) = await broker.take(1, 0)
    await broker.complete(restored(job))
    (result,) = await broker.results("a", LONG_S)
    assert SOON_S * 1000 <= result.timings_ms["queue_wait"] <= LONG_S * 1000


async def test_results_wait_for_the_last_face(broker):
    await broker.submit(photo("a", 2))
    first, second = await broker.take(2, 0)
    await broker.complete(restored(first))
    waiting = asyncio.create_task(broker.results("a", LONG_S))
    await asyncio.sleep(SOON_S)
    assert not waiting.done()
    await broker.complete(restored(second))
    assert len(await waiting) == 2


async def test_results_that_are_there_need_no_time(broker):
    await broker.submit(photo("a"))
    (job,) = await broker.take(1, 0)
    await broker.complete(restored(job))
    assert len(await broker.results("a", 0)) == 1


async def test_fetched_results_are_forgotten(broker):
    await broker.submit(photo("a"))
    (job,) = await broker.take(1, 0)
    await broker.complete(restored(job))
    await broker.results("a", LONG_S)
    with pytest.raises(Cancelled):
        await broker.results("a", SOON_S)


async def test_a_face_restored_twice_counts_once(broker):
    await broker.submit(photo("a", 2))
    first, second = await broker.take(2, 0)
    await broker.complete(restored(first, 0.25))
    await broker.complete(restored(first, 0.75))
    waiting = asyncio.create_task(broker.results("a", LONG_S))
    await asyncio.sleep(SOON_S)
    assert not waiting.done()
    await broker.complete(restored(second))
    assert (await waiting)[0].sample == pytest.approx(0.25, abs=PIXEL)


async def test_a_failed_face_fails_its_photo_and_withdraws_the_rest(broker):
    await broker.submit(photo("a", 4))
    await broker.submit(photo("b"))
    taken = await broker.take(4, 0)
    failing, running = [job for job in taken if job.job_id == "a"][:2]
    waiting = asyncio.create_task(broker.results("a", LONG_S))
    await asyncio.sleep(SOON_S)
    await broker.fail(failing, InferenceFailed("velocity: not finite", hint="try again", network="velocity"))
    with pytest.raises(InferenceFailed) as failure:
        await waiting
    error = failure.value
    assert (error.detail, error.hint, error.extra) == ("velocity: not finite", "try again", {"network": "velocity"})
    assert await broker.beat(at_work(taken)) == {job.key for job in taken if job.job_id == "a"}
    await broker.complete(restored(running))
    assert {job.job_id for job in await drain(broker)} <= {"b"}


async def test_the_first_failure_is_told(broker):
    await broker.submit(photo("a", 2))
    first, second = await broker.take(2, 0)
    await broker.fail(second, InferenceFailed("the first"))
    await broker.fail(first, Cancelled("a consequence"))
    with pytest.raises(InferenceFailed, match="the first"):
        await broker.results("a", LONG_S)


async def test_a_face_that_fails_because_triton_is_away_does_not_look_like_a_queue_that_is(broker):
    await broker.submit(photo("a"))
    (failing,) = await broker.take(1, 0)
    waiting = asyncio.create_task(broker.results("a", LONG_S))
    await asyncio.sleep(SOON_S)
    await broker.fail(failing, DependencyUnavailable("no Triton server can be called"))
    with pytest.raises(DependencyUnavailable, match="Triton"):
        await waiting


async def test_a_withdrawn_photo_is_handed_to_nobody(broker):
    await broker.submit(photo("a", 2))
    await broker.submit(photo("b", 1))
    await broker.cancel("a")
    assert await broker.depth() == 1
    assert names(await drain(broker)) == [("b", 0)]


async def test_withdrawing_tells_the_worker_and_wakes_the_waiter(broker):
    await broker.submit(photo("a"))
    await broker.submit(photo("b"))
    taken = await broker.take(2, 0)
    waiting = asyncio.create_task(broker.results("a", LONG_S))
    await asyncio.sleep(SOON_S)
    await broker.cancel("a")
    with pytest.raises(Cancelled):
        await waiting
    assert await broker.beat(at_work(taken)) == {("a", 0)}
    for job in taken:
        await broker.complete(restored(job))
    assert len(await broker.results("b", LONG_S)) == 1
    with pytest.raises(Cancelled):
        await broker.results("a", SOON_S)


async def test_withdrawing_what_is_unknown_changes_nothing(broker):
    await broker.submit(photo("a"))
    await broker.cancel("never submitted")
    assert await broker.depth() == 1


async def test_nobody_waits_longer_than_the_timeout(broker):
    await broker.submit(photo("a", 2))
    taken = await broker.take(1, 0)
    with pytest.raises(DeadlineExceeded):
        await broker.results("a", SOON_S)
    assert await broker.beat(at_work(taken)) == {("a", 0)}
    assert await drain(broker) == []


async def test_closing_wakes_every_waiter(make_broker):
    async with make_broker(max_queued_faces=4) as broker:
        await broker.submit(photo("a"))
        await broker.take(1, 0)
        taking, waiting = asyncio.create_task(broker.take(1, LONG_S)), asyncio.create_task(broker.results("a", LONG_S))
        await asyncio.sleep(SOON_S)
        assert await broker.ready()
        await broker.close()
        assert await taking == []
        with pytest.raises(Draining):
            await waiting
        assert not await broker.ready()
        with pytest.raises(Draining):
            await broker.submit(photo("b"))
        assert await broker.take(1, SOON_S) == []


async def test_faces_at_work_are_wanted_and_unknown_ones_are_not(broker):
    await broker.submit(photo("a", 2))
    (taken,) = await broker.take(1, 0)
    waits = next(index for index in (0, 1) if index != taken.face_index)
    assert await broker.beat({taken.key: 0, ("a", waits): 0, ("unknown", 0): 3}) == {("a", waits), ("unknown", 0)}


async def test_progress_is_told_to_the_one_who_waits(broker):
    await broker.submit(photo("a", 2, num_steps=4))
    seen = []
    waiting = asyncio.create_task(broker.results("a", LONG_S, seen.append))
    await until(lambda: seen)
    first, second = await broker.take(2, 0)
    await broker.beat({first.key: 1, second.key: 3})
    await until(lambda: seen[-1].steps_done == 4)
    await broker.complete(restored(first))
    await until(lambda: seen[-1].faces_done == 1)
    await broker.complete(restored(second))
    await waiting
    assert seen[0] == Progress(num_faces=2, faces_done=0, num_steps=8, steps_done=0)
    assert Progress(num_faces=2, faces_done=0, num_steps=8, steps_done=4) in seen
    assert Progress(num_faces=2, faces_done=1, num_steps=8, steps_done=7) in seen
    assert [step.steps_done for step in seen] == sorted(step.steps_done for step in seen)


async def test_a_face_handed_back_is_the_next_one(broker):
    await broker.submit(photo("a", 2))
    await broker.submit(photo("b"))
    taken = await broker.take(1, 0)
    await broker.hand_back(taken)
    assert await broker.depth() == 3
    assert names(await broker.take(1, 0)) == names(taken)
    assert len(await drain(broker)) == 2


async def test_what_is_handed_back_twice_or_withdrawn_is_not_queued_again(broker):
    await broker.submit(photo("a"))
    await broker.submit(photo("b"))
    taken = await broker.take(2, 0)
    await broker.cancel("a")
    await broker.hand_back(taken)
    await broker.hand_back(taken)
    assert names(await drain(broker)) == [("b", 0)]


async def test_a_job_submitted_again_is_joined(broker):
    await broker.submit(photo("a", 2))
    (first,) = await broker.take(1, 0)
    await broker.complete(restored(first))
    await broker.submit(photo("a", 2))
    rest = await drain(broker)
    assert len(rest) == 1
    await broker.complete(restored(rest[0]))
    assert len(await broker.results("a", LONG_S)) == 2
