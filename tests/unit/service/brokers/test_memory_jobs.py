import asyncio
import gc
import time
import weakref
from contextlib import aclosing
from dataclasses import replace

import pytest

from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.core.errors import ImageTooLarge, InferenceFailed, NotFound, QueueFull
from service.core.jobs import Idempotency, JobState, PhotoJob
from service.core.metrics import Metrics
from service.core.types import Lane, OutputFormat, Report, Restoration, RestoreOptions, Upload

LONG_S = 30


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


def make_queue(*, metrics=None, clock=time.time, **limits):
    defaults = {"max_queued_photos": 8, "max_queued_bytes": 10**6, "result_ttl_s": 60, "max_result_bytes": 10**6}
    return MemoryJobQueue(JobLimits(**defaults | limits), metrics=metrics or Metrics(), clock=clock)


def photo(job_id, size_bytes=10, lane=Lane.INTERACTIVE):
    return PhotoJob(job_id, Upload(bytes(size_bytes)), RestoreOptions(seed=1), lane, deadline_s=4e9)


class TracedUpload(Upload):
    """An upload whose end can be seen."""

    __slots__ = ("__weakref__",)


def result_of(job_id, size_bytes=100_000):
    report = Report(job_id, "m@1", 8, 8, 0, 1, 0.5, (), {"total": 1.0}, OutputFormat.PNG)
    return Restoration(b"x" * size_bytes, report)


async def finish(queue, job_id, size_bytes=100_000):
    await queue.admit(photo(job_id))
    await queue.take(0)
    await queue.finish(result_of(job_id, size_bytes))


async def test_the_time_of_expiry_is_told():
    queue = make_queue(clock=Clock())
    assert (await queue.keep(result_of("direct"))).expires_at_s == 1060
    await finish(queue, "job")
    assert (await queue.status("job")).expires_s == 1060
    await queue.close()


async def test_the_oldest_results_make_room_and_their_jobs_are_forgotten():
    queue = make_queue(max_result_bytes=250_000)
    key = Idempotency("key", "print")
    await queue.admit(photo("a"), key)
    await queue.take(0)
    await queue.finish(result_of("a"))
    await queue.keep(result_of("b"))
    await finish(queue, "c")
    with pytest.raises(NotFound):
        await queue.status("a")
    assert (await queue.result("b")).restoration.report.id == "b"
    assert await queue.result("c")
    assert queue.held_bytes <= 250_000
    assert (await queue.admit(photo("again"), key)).is_new
    await queue.close()


async def test_a_result_above_the_budget_is_not_kept_and_pushes_nobody_out():
    queue = make_queue(max_result_bytes=250_000)
    await queue.keep(result_of("a"))
    assert await queue.keep(result_of("b", 300_000)) is None
    assert await queue.result("a")
    await queue.close()


async def test_no_budget_keeps_nothing():
    assert await make_queue(max_result_bytes=0).keep(result_of("a", 1)) is None


async def test_a_result_that_cannot_be_kept_is_refused_and_its_job_goes_on():
    queue = make_queue(max_result_bytes=250_000)
    with pytest.raises(ImageTooLarge) as told:
        await finish(queue, "a", 300_000)
    assert (await queue.status("a")).state is JobState.RUNNING
    assert told.value.extra == {"result_bytes": 304_096, "max_result_bytes": 250_000}
    assert "/restore" in told.value.hint
    await queue.close()


async def empties(queue, left_bytes=0):
    async with asyncio.timeout(LONG_S):
        while queue.held_bytes > left_bytes:  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)


async def test_expiry_needs_no_visitor():
    queue = make_queue(result_ttl_s=0.01)
    await finish(queue, "a")
    await queue.keep(result_of("b"))
    await empties(queue)
    await queue.close()


async def test_expiry_needs_no_visitor_for_what_comes_later_either():
    clock = Clock()
    queue = make_queue(result_ttl_s=0.2, clock=clock)
    await finish(queue, "a")
    alone_bytes = queue.held_bytes
    clock.now_s += 0.1
    await finish(queue, "b")
    clock.now_s += 0.15
    await empties(queue, alone_bytes)
    assert queue.held_bytes == alone_bytes  # a is gone, b is not
    clock.now_s += 0.1
    await empties(queue)
    await queue.close()


async def test_waiting_photos_are_bounded_in_bytes_too():
    queue = make_queue(max_queued_bytes=1000)
    await queue.admit(photo("larger than the bound, alone", 5000, Lane.BATCH))
    with pytest.raises(QueueFull):
        await queue.admit(photo("b", 10))
    await queue.take(0)
    await queue.admit(photo("c", 600))
    with pytest.raises(QueueFull):
        await queue.admit(photo("d", 600))
    await queue.cancel("c")
    await queue.admit(photo("d", 600))
    await queue.delete("d")
    await queue.admit(photo("e", 600))


@pytest.mark.parametrize("ending", ["finished", "failed", "cancelled", "deleted"])
async def test_the_photo_is_dropped_when_its_job_ends(ending):
    queue = make_queue()
    upload = TracedUpload(b"pixels")
    seen = weakref.ref(upload)
    await queue.admit(replace(photo("a"), upload=upload))
    await queue.take(0)
    del upload
    if ending == "finished":
        await queue.finish(result_of("a"))
    elif ending == "failed":
        await queue.fail("a", InferenceFailed("no"))
    else:
        await (queue.cancel("a") if ending == "cancelled" else queue.delete("a"))
    gc.collect()
    assert seen() is None
    await queue.close()


async def retry_after_s(*, photo_s, at_once=1):
    clock = Clock()
    queue = make_queue(max_queued_photos=4, clock=clock)
    for _ in range(40):
        names = [f"earlier {clock.now_s} {number}" for number in range(at_once)]
        for name in names:
            await queue.admit(photo(name))
            await queue.take(0)
        clock.now_s += photo_s
        for name in names:
            await queue.finish(result_of(name, 1))
    for number in range(4):
        await queue.admit(photo(f"waits {number}"))
    with pytest.raises(QueueFull) as refusal:
        await queue.admit(photo("too many"))
    await queue.close()
    return refusal.value.extra["retry_after_s"]


async def test_retry_after_follows_the_pace_of_the_gateways():
    assert await retry_after_s(photo_s=0.1) == 1
    assert await retry_after_s(photo_s=7.0) == pytest.approx(7, abs=1)
    assert await retry_after_s(photo_s=1000.0) == 60
    assert 2 <= await retry_after_s(photo_s=8.0, at_once=4) <= 8


async def test_metrics_tell_how_many_photos_wait():
    metrics = Metrics()
    queue = make_queue(metrics=metrics)
    await queue.admit(photo("a"))
    for number in range(3):
        await queue.admit(photo(f"b {number}", lane=Lane.BATCH))
    await queue.take(0)
    await queue.cancel("b 1")
    lines = metrics.render().decode().splitlines()
    assert 'restore_photo_queue_depth{lane="interactive"} 0.0' in lines
    assert 'restore_photo_queue_depth{lane="batch"} 2.0' in lines
    await queue.close()


async def test_a_watcher_that_left_is_forgotten():
    queue = make_queue()
    await queue.admit(photo("a"))
    async with aclosing(queue.watch("a")) as statuses:
        assert (await anext(statuses)).state is JobState.QUEUED
    await queue.cancel("a")
    assert (await queue.status("a")).state is JobState.CANCELLED
    await queue.close()


async def test_a_closed_queue_does_not_let_a_gateway_spin():
    queue = make_queue()
    await queue.close()
    for waiting in (queue.take(30), queue.due_notice(30)):
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0.02)
        assert not task.done()
        task.cancel()


async def test_a_queue_needs_room():
    with pytest.raises(ValueError, match="max_queued_photos"):
        make_queue(max_queued_photos=0)


async def test_results_of_one_owner_do_not_push_out_those_of_others():
    queue = make_queue(max_result_bytes=350_000)
    await queue.admit(replace(photo("mine"), owner="shop"), Idempotency("key", "print"))
    await queue.take(0)
    await queue.finish(result_of("mine"))
    for name in ("a", "b", "c"):
        await queue.keep(result_of(name), "flood")
    assert (await queue.result("mine")).restoration.report.id == "mine"
    assert await queue.known_by(Idempotency("key", "print")) == "mine"
    with pytest.raises(NotFound):
        await queue.status("a")
    await queue.keep(result_of("large", 340_000), "flood")  # it may have all of it, when nothing else of his is left
    with pytest.raises(NotFound):
        await queue.status("mine")
    assert queue.held_bytes <= 350_000
    await queue.close()


async def test_photos_of_one_owner_have_half_of_the_bytes():
    queue = make_queue(max_queued_bytes=1000)
    await queue.admit(replace(photo("a", 400), owner="flood"))
    with pytest.raises(QueueFull, match="of yours"):
        await queue.admit(replace(photo("b", 200), owner="flood"))
    await queue.admit(replace(photo("c", 500), owner="shop"))
    await queue.close()
