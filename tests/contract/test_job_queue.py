"""What every queue of photos promises: the line, the lease, the outcome. A new one joins in `tests/job_queues.py`."""

import asyncio
import contextlib
import time

import pytest

from service.core.errors import (
    Cancelled,
    Draining,
    InferenceFailed,
    NoFaceFound,
    NotFinished,
    NotFound,
    QueueFull,
)
from service.core.interfaces import JobQueue
from service.core.jobs import Failure, Idempotency, JobState, Progress
from service.core.types import Background, FaceSelection, Lane, OutputFormat, RestoreOptions
from tests.job_queues import HOOK, LONG_S, SOON_S, Watching, photo, result_of, take_all


def test_it_implements_the_protocol(queue):
    assert isinstance(queue, JobQueue)


async def test_a_gateway_gets_what_was_admitted(queue):
    options = RestoreOptions(
        fidelity=0.5,
        num_steps=9,
        seed=2**63 - 1,
        faces=FaceSelection.ANY,
        max_faces=3,
        det_threshold=0.25,
        min_face_px=48,
        aligned=True,
        upscale=1.5,
        background=Background.NONE,
        output_format=OutputFormat.JPEG,
        quality=80,
    )
    sent = photo("a", Lane.BATCH, options=options, webhook_url=HOOK)
    admitted = await queue.admit(sent)
    assert (admitted.job_id, admitted.is_new) == ("a", True)
    assert await queue.take(LONG_S) == sent
    await queue.admit(photo("plain"))
    assert (await queue.take(LONG_S)).webhook_url is None


async def test_each_photo_is_handed_out_once_in_order(queue):
    for job_id in "abc":
        await queue.admit(photo(job_id))
    assert await queue.depth() == 3
    assert [job.job_id for job in await take_all(queue)] == ["a", "b", "c"]
    assert await queue.depth() == 0


async def test_an_empty_queue_is_told_after_the_wait(queue):
    assert await queue.take(0) is None
    assert await queue.take(SOON_S) is None


async def test_waiting_gateways_wake_when_photos_come(queue):
    taking = [asyncio.create_task(queue.take(LONG_S)) for _ in range(3)]
    await asyncio.sleep(SOON_S)
    for job_id in "abc":
        await queue.admit(photo(job_id))
    assert sorted(job.job_id for job in await asyncio.gather(*taking)) == ["a", "b", "c"]


async def test_a_gateway_that_gives_up_waiting_takes_no_photo_with_it(queue):
    taking = asyncio.create_task(queue.take(LONG_S))
    await asyncio.sleep(SOON_S)
    await queue.admit(photo("a"))
    taking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        assert await taking is None
    assert [job.job_id for job in await take_all(queue)] == ["a"]


async def test_the_interactive_lane_comes_first(queue):
    for number in range(3):
        await queue.admit(photo(f"batch {number}", Lane.BATCH))
        await queue.admit(photo(f"interactive {number}"))
    assert all([(await queue.take(0)).lane is Lane.INTERACTIVE for _ in range(3)])


async def test_the_batch_lane_is_never_starved(queue):
    for number in range(3):
        await queue.admit(photo(f"batch {number}", Lane.BATCH))
    for number in range(40):
        await queue.admit(photo(f"interactive {number}"))
    lanes = [(await queue.take(0)).lane for _ in range(20)]
    assert 1 <= lanes.count(Lane.BATCH) <= 3
    assert lanes.count(Lane.INTERACTIVE) > lanes.count(Lane.BATCH)


async def test_a_full_lane_refuses_and_says_when_to_come_back(make_queue):
    async with make_queue(max_queued_photos=2) as queue:
        await queue.admit(photo("a"))
        await queue.admit(photo("b"))
        with pytest.raises(QueueFull) as refusal:
            await queue.admit(photo("c"))
        assert 1 <= refusal.value.extra["retry_after_s"] <= 60
        with pytest.raises(NotFound):
            await queue.status("c")
        await queue.take(0)
        await queue.admit(photo("c"))
        assert await queue.depth() == 2


async def test_a_full_batch_lane_leaves_room_for_interactive_photos(make_queue):
    async with make_queue(max_queued_photos=1) as queue:
        await queue.admit(photo("batch", Lane.BATCH))
        with pytest.raises(QueueFull):
            await queue.admit(photo("more", Lane.BATCH))
        await queue.admit(photo("interactive"))
        assert await queue.depth() == 2


async def test_the_life_of_a_job(queue):
    begin_s = time.time()
    await queue.admit(photo("a"))
    waiting = await queue.status("a")
    assert (waiting.job_id, waiting.state, waiting.position) == ("a", JobState.QUEUED, 0)
    assert begin_s - 1 <= waiting.created_s <= time.time() + 1
    assert (waiting.expires_s, waiting.progress, waiting.failure) == (None, None, None)
    await queue.take(0)
    running = await queue.status("a")
    assert (running.state, running.position, running.expires_s) == (JobState.RUNNING, None, None)
    await queue.finish(result_of("a"))
    ended = await queue.status("a")
    assert (ended.state, ended.position, ended.failure) == (JobState.SUCCEEDED, None, None)
    assert (waiting.report, running.report, ended.report) == (None, None, result_of("a").report)
    assert ended.created_s == waiting.created_s
    assert ended.expires_s > time.time()
    stored = await queue.result("a")
    assert stored.restoration == result_of("a")
    assert stored.expires_at_s == pytest.approx(ended.expires_s, abs=1)


async def test_the_position_counts_the_photos_before_in_the_lane(queue):
    for job_id in "abc":
        await queue.admit(photo(job_id))
    await queue.admit(photo("batch", Lane.BATCH))
    assert [(await queue.status(job_id)).position for job_id in ("a", "b", "c", "batch")] == [0, 1, 2, 0]
    await queue.cancel("b")
    assert [(await queue.status(job_id)).position for job_id in "abc"] == [0, None, 1]
    await queue.take(0)
    assert (await queue.status("c")).position == 0


async def test_no_result_before_the_end(queue):
    await queue.admit(photo("a"))
    with pytest.raises(NotFinished):
        await queue.result("a")
    await queue.take(0)
    with pytest.raises(NotFinished):
        await queue.result("a")


async def test_a_failure_is_kept_with_everything_it_says(queue):
    await queue.admit(photo("a"))
    await queue.take(0)
    await queue.fail("a", NoFaceFound("none seen", hint="lower det_threshold", seen=0, ranges=[0.5, None]))
    status = await queue.status("a")
    assert status.state is JobState.FAILED
    assert status.expires_s > time.time()
    expected = Failure("no_face_found", "none seen", "lower det_threshold", {"seen": 0, "ranges": [0.5, None]})
    assert status.failure == expected
    with pytest.raises(NoFaceFound) as told:
        await queue.result("a")
    assert Failure.of(told.value) == expected


async def test_the_first_outcome_counts(queue):
    for job_id in ("done", "lost"):
        await queue.admit(photo(job_id))
        await queue.take(0)
    await queue.finish(result_of("done", b"first"))
    await queue.finish(result_of("done", b"second"))
    await queue.fail("done", InferenceFailed("late"))
    await queue.cancel("done")
    assert (await queue.result("done")).restoration.data == b"first"
    await queue.fail("lost", InferenceFailed("first"))
    await queue.fail("lost", InferenceFailed("second"))
    await queue.finish(result_of("lost"))
    with pytest.raises(InferenceFailed, match="first"):
        await queue.result("lost")


async def test_an_outcome_of_what_is_not_at_work_is_dropped(queue):
    await queue.admit(photo("waits"))
    for job_id in ("waits", "unknown"):
        await queue.finish(result_of(job_id))
        await queue.fail(job_id, InferenceFailed("no"))
        await queue.hand_back(job_id)
        await queue.note(job_id, Progress(1, 0, 4, 1))
    assert (await queue.status("waits")).state is JobState.QUEUED
    with pytest.raises(NotFound):
        await queue.status("unknown")
    assert len(await take_all(queue)) == 1


async def test_jobs_at_work_are_wanted_and_others_are_not(queue):
    for job_id in "abcd":
        await queue.admit(photo(job_id))
    for _ in "abc":
        await queue.take(0)
    await queue.finish(result_of("b"))
    await queue.cancel("c")
    assert await queue.beat(["a", "b", "c", "d", "unknown"]) == {"b", "c", "d", "unknown"}
    assert await queue.beat([]) == set()


async def test_a_job_handed_back_is_the_next_one(queue):
    await queue.admit(photo("a"))
    await queue.admit(photo("b"))
    await queue.take(0)
    await queue.note("a", Progress(1, 0, 4, 1))
    await queue.hand_back("a")
    await queue.hand_back("a")
    status = await queue.status("a")
    assert (status.state, status.position, status.progress) == (JobState.QUEUED, 0, None)
    assert await queue.beat(["a"]) == {"a"}
    assert [job.job_id for job in await take_all(queue)] == ["a", "b"]
    await queue.finish(result_of("a"))
    assert (await queue.status("a")).state is JobState.SUCCEEDED


async def test_progress_is_part_of_the_status(queue):
    await queue.admit(photo("a"))
    await queue.take(0)
    await queue.note("a", Progress(num_faces=2, faces_done=1, num_steps=8, steps_done=5))
    assert (await queue.status("a")).progress == Progress(2, 1, 8, 5)


async def test_a_queued_job_that_is_cancelled_is_handed_to_nobody(queue):
    await queue.admit(photo("a"))
    await queue.admit(photo("b"))
    assert (await queue.cancel("a")).state is JobState.CANCELLED
    status = await queue.status("a")
    assert (status.state, status.position) == (JobState.CANCELLED, None)
    assert status.expires_s > time.time()
    with pytest.raises(Cancelled):
        await queue.result("a")
    assert [job.job_id for job in await take_all(queue)] == ["b"]


async def test_a_running_job_that_is_cancelled_has_no_outcome(queue):
    await queue.admit(photo("a"))
    await queue.take(0)
    await queue.cancel("a")
    assert await queue.beat(["a"]) == {"a"}
    await queue.finish(result_of("a"))
    await queue.hand_back("a")
    assert (await queue.status("a")).state is JobState.CANCELLED
    assert await take_all(queue) == []


async def test_cancelling_what_has_ended_changes_nothing(queue):
    await queue.admit(photo("a"))
    await queue.take(0)
    await queue.finish(result_of("a"))
    assert (await queue.cancel("a")).state is JobState.SUCCEEDED
    assert (await queue.result("a")).restoration == result_of("a")
    with pytest.raises(NotFound):
        await queue.cancel("unknown")


@pytest.mark.parametrize("when", ["queued", "running", "ended"])
async def test_a_deleted_job_is_gone(queue, when):
    await queue.admit(photo("a"))
    await queue.admit(photo("b"))
    if when != "queued":
        await queue.take(0)
    if when == "ended":
        await queue.finish(result_of("a"))
    await queue.delete("a")
    for gone in (queue.status("a"), queue.result("a"), queue.cancel("a"), queue.delete("a")):
        with pytest.raises(NotFound):
            await gone
    assert await queue.beat(["a"]) == {"a"}
    await queue.finish(result_of("a"))
    with pytest.raises(NotFound):
        await queue.status("a")
    assert [job.job_id for job in await take_all(queue)] == ["b"]


async def test_a_result_without_a_job_is_kept(queue):
    stored = await queue.keep(result_of("direct"))
    assert stored.restoration == result_of("direct")
    status = await queue.status("direct")
    assert (status.state, status.position, status.report) == (JobState.SUCCEEDED, None, stored.restoration.report)
    assert status.expires_s == pytest.approx(stored.expires_at_s, abs=1)
    assert (await queue.result("direct")).restoration == result_of("direct")
    assert [status.state for status in await Watching(queue, "direct").end()] == [JobState.SUCCEEDED]
    await queue.delete("direct")
    with pytest.raises(NotFound):
        await queue.result("direct")


async def ask_again_and_again(queue, job_id):
    for _ in range(1000):
        await queue.status(job_id)
        await asyncio.sleep(SOON_S)


async def test_jobs_are_forgotten_some_time_after_their_end(make_queue):
    async with make_queue(result_ttl_s=0.3) as queue:
        same = Idempotency("key", "print")
        await queue.admit(photo("done"), same)
        await queue.admit(photo("withdrawn"))
        await queue.admit(photo("waits"))
        await queue.take(0)
        await queue.finish(result_of("done"))
        await queue.cancel("withdrawn")
        await queue.keep(result_of("direct"))
        for job_id in ("done", "withdrawn", "direct"):
            with pytest.raises(NotFound):
                await ask_again_and_again(queue, job_id)
        assert (await queue.status("waits")).state is JobState.QUEUED
        assert (await queue.admit(photo("again"), same)).is_new


async def test_closing_wakes_every_waiter(make_queue):
    async with make_queue() as queue:
        await queue.admit(photo("a"))
        await queue.take(0)
        waiting = [asyncio.create_task(queue.take(LONG_S)), asyncio.create_task(queue.due_notice(LONG_S))]
        watching = Watching(queue, "a")
        await watching.until(lambda status: status.state is JobState.RUNNING)
        await asyncio.sleep(SOON_S)
        assert await queue.ready()
        await queue.close()
        assert await asyncio.wait_for(asyncio.gather(*waiting), LONG_S) == [None, None]
        with pytest.raises(Draining):
            await watching.end()
        assert not await queue.ready()
        with pytest.raises(Draining):
            await queue.admit(photo("b"))


@pytest.mark.parametrize("leaving", ["taken", "cancelled", "deleted"])
async def test_photos_of_one_owner_leave_room_for_others(make_queue, leaving):
    async with make_queue(max_queued_photos=4) as queue:
        await queue.admit(photo("a", owner="flood"))
        await queue.admit(photo("b", owner="flood"))
        with pytest.raises(QueueFull, match="of yours") as refusal:
            await queue.admit(photo("c", owner="flood"))
        assert refusal.value.extra["retry_after_s"] >= 1
        await queue.admit(photo("d", Lane.BATCH, owner="flood"))
        await queue.admit(photo("e", owner="shop"))
        if leaving == "taken":
            assert (await queue.take(LONG_S)).owner == "flood"
        elif leaving == "cancelled":
            await queue.cancel("a")
        else:
            await queue.delete("a")
        await queue.admit(photo("c", owner="flood"))
        if leaving == "taken":
            await queue.hand_back("a")
        with pytest.raises(QueueFull):
            await queue.admit(photo("f", owner="flood"))
