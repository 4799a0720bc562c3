"""Whoever watches a job sees its end, in every queue of photos."""

import asyncio

import pytest

from service.core.errors import (
    InferenceFailed,
    NotFound,
)
from service.core.jobs import Failure, JobState, Progress
from tests.job_queues import Watching, photo, result_of


async def test_who_watches_sees_a_job_from_the_line_to_its_end(queue):
    await queue.admit(photo("before"))
    await queue.admit(photo("a"))
    watching = Watching(queue, "a")
    await watching.until(lambda status: status.position == 1)
    await queue.take(0)
    await watching.until(lambda status: status.position == 0)
    await queue.take(0)
    await watching.until(lambda status: status.state is JobState.RUNNING)
    await queue.note("a", Progress(1, 0, 4, 2))
    await watching.until(lambda status: status.progress == Progress(1, 0, 4, 2))
    await queue.finish(result_of("a"))
    seen = await watching.end()
    assert [status.state for status in seen].index(JobState.RUNNING) >= 2
    assert [status.state.final for status in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].state is JobState.SUCCEEDED
    assert seen[-1].expires_s is not None


@pytest.mark.parametrize("ending", ["failed", "cancelled", "deleted"])
async def test_every_end_ends_a_watch(queue, ending):
    await queue.admit(photo("a"))
    await queue.take(0)
    watching = Watching(queue, "a")
    await watching.until(lambda status: status.state is JobState.RUNNING)
    if ending == "failed":
        await queue.fail("a", InferenceFailed("no"))
    else:
        await (queue.cancel("a") if ending == "cancelled" else queue.delete("a"))
    last = (await watching.end())[-1]
    assert last.state is (JobState.FAILED if ending == "failed" else JobState.CANCELLED)
    assert last.failure == (Failure("inference_failed", "no") if ending == "failed" else None)


@pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled"])
async def test_a_watch_that_begins_after_the_end_sees_the_end(queue, ending):
    await queue.admit(photo("a"))
    await queue.take(0)
    if ending == "succeeded":
        await queue.finish(result_of("a"))
    else:
        await (queue.cancel("a") if ending == "cancelled" else queue.fail("a", InferenceFailed("no")))
    assert [status.state.value for status in await Watching(queue, "a").end()] == [ending]


async def test_a_watch_of_the_unknown_is_refused(queue):
    with pytest.raises(NotFound):
        await Watching(queue, "unknown").end()


async def test_several_may_watch_and_one_may_leave(queue):
    await queue.admit(photo("a"))
    leaving, staying = Watching(queue, "a"), Watching(queue, "a")
    for watching in (leaving, staying):
        await watching.until(lambda status: status.position == 0)
    leaving.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving.task
    await queue.cancel("a")
    assert (await staying.end())[-1].state is JobState.CANCELLED
