"""A request that is repeated is one job, in every queue of photos."""

import asyncio

import pytest

from service.core.errors import (
    DeadlineExceeded,
    IdempotencyConflict,
    InferenceFailed,
    NoFaceFound,
    NotFound,
    QueueFull,
)
from service.core.jobs import Idempotency, JobState
from tests.job_queues import photo, result_of


async def test_a_repeated_key_gives_the_same_job(queue):
    await queue.admit(photo("a"), Idempotency("key", "print"))
    again = await queue.admit(photo("b"), Idempotency("key", "print"))
    assert (again.job_id, again.is_new) == ("a", False)
    assert await queue.depth() == 1
    with pytest.raises(NotFound):
        await queue.status("b")


async def test_a_key_means_the_same_job_as_long_as_that_is_known(queue):
    same = Idempotency("key", "print")
    await queue.admit(photo("a"), same)
    await queue.take(0)
    assert (await queue.admit(photo("b"), same)).job_id == "a"
    await queue.finish(result_of("a"))
    assert (await queue.admit(photo("b"), same)).job_id == "a"
    await queue.delete("a")
    fresh = await queue.admit(photo("b"), same)
    assert (fresh.job_id, fresh.is_new) == ("b", True)


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_a_key_of_a_job_without_a_result_means_that_job(queue, ending):
    same = Idempotency("key", "print")
    await queue.admit(photo("a"), same)
    await queue.take(0)
    await (queue.cancel("a") if ending == "cancelled" else queue.fail("a", NoFaceFound("no")))
    assert await queue.admit(photo("b"), same) == await queue.admit(photo("c"), same)
    assert (await queue.status("a")).state == JobState(ending)


@pytest.mark.parametrize("error", [InferenceFailed("no"), DeadlineExceeded("late")])
async def test_a_key_of_a_job_that_may_be_tried_again_means_the_next_one(queue, error):
    same = Idempotency("key", "print")
    await queue.admit(photo("a"), same)
    await queue.take(0)
    await queue.fail("a", error)
    with pytest.raises(IdempotencyConflict):
        await queue.admit(photo("x"), Idempotency("key", "another print"))
    answers = await asyncio.gather(*(queue.admit(photo(job_id), same) for job_id in "bcd"))
    assert len({answer.job_id for answer in answers} - {"a"}) == 1
    assert sum(answer.is_new for answer in answers) == 1
    second = answers[0].job_id
    assert (await queue.status("a")).failure.code == error.code
    await queue.delete("a")
    assert await queue.known_by(same) == second
    assert (await queue.take(0)).job_id == second
    await queue.finish(result_of(second))
    again = await queue.admit(photo("e"), same)
    assert (again.job_id, again.is_new) == (second, False)
    assert await queue.depth() == 0


async def test_a_refusal_leaves_the_key_of_a_failed_job(make_queue):
    same = Idempotency("key", "print")
    async with make_queue(max_queued_photos=1) as queue:
        await queue.admit(photo("a"), same)
        await queue.take(0)
        await queue.fail("a", InferenceFailed("no"))
        await queue.admit(photo("b"))
        with pytest.raises(QueueFull):
            await queue.admit(photo("c"), same)
        with pytest.raises(IdempotencyConflict):
            await queue.admit(photo("d"), Idempotency("key", "another print"))
        await queue.take(0)
        assert (await queue.admit(photo("c"), same)).is_new


async def test_a_key_can_be_asked_for_before_the_photo_is_there(queue):
    same = Idempotency("key", "print")
    assert await queue.known_by(same) is None
    await queue.admit(photo("a"), same)
    assert await queue.known_by(same) == "a"
    with pytest.raises(IdempotencyConflict):
        await queue.known_by(Idempotency("key", "another print"))
    await queue.take(0)
    await queue.fail("a", InferenceFailed("no"))
    assert await queue.known_by(same) is None
    await queue.delete("a")
    assert await queue.known_by(Idempotency("key", "another print")) is None


async def test_a_key_for_another_request_is_a_conflict(queue):
    await queue.admit(photo("a"), Idempotency("key", "print"))
    with pytest.raises(IdempotencyConflict):
        await queue.admit(photo("b"), Idempotency("key", "another print"))
    await queue.admit(photo("b"), Idempotency("another key", "print"))
    await queue.admit(photo("c"))
    await queue.admit(photo("d"))
    assert await queue.depth() == 4


async def test_admissions_at_once_with_one_key_make_one_job(queue):
    same = Idempotency("key", "print")
    answers = await asyncio.gather(*(queue.admit(photo(f"job {number}"), same) for number in range(12)))
    assert len({answer.job_id for answer in answers}) == 1
    assert sum(answer.is_new for answer in answers) == 1
    assert await queue.depth() == 1


async def test_a_repetition_needs_no_room_and_a_refusal_leaves_no_key(make_queue):
    async with make_queue(max_queued_photos=1) as queue:
        await queue.admit(photo("a"), Idempotency("first", "print"))
        assert (await queue.admit(photo("a2"), Idempotency("first", "print"))).job_id == "a"
        with pytest.raises(QueueFull):
            await queue.admit(photo("b"), Idempotency("second", "print"))
        await queue.take(0)
        assert (await queue.admit(photo("c"), Idempotency("second", "another print"))).is_new
