"""Every queue of photos counts each job once, in the process that has ended it, and tells how long the oldest waits."""

import time

import pytest

from service.core.errors import InferenceFailed
from service.core.metrics import Metrics
from service.core.types import Lane
from tests.job_queues import LONG_S, photo, photos_counted, result_of, take_all


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
async def queue(make_queue, metrics):
    async with make_queue(metrics=metrics) as made:
        yield made


async def taken(queue, job_id="a"):
    await queue.admit(photo(job_id))
    assert (await queue.take(LONG_S)).job_id == job_id


async def test_each_end_counts_once_whoever_tells_of_it_again(queue, metrics):
    for job_id in ("good", "bad", "running", "forgotten"):
        await taken(queue, job_id)
    await queue.admit(photo("queued"))
    await queue.admit(photo("queued and forgotten"))
    assert photos_counted(metrics) == {}
    assert await queue.finish(result_of("good"))
    assert await queue.fail("bad", InferenceFailed("no numbers"))
    for job_id in ("running", "queued", "good", "running"):
        await queue.cancel(job_id)
    for job_id in ("forgotten", "queued and forgotten", "good"):
        await queue.delete(job_id)
    assert photos_counted(metrics) == {"succeeded": 1, "inference_failed": 1, "cancelled": 4}


async def test_what_comes_after_the_end_is_no_outcome_and_is_not_counted(queue, metrics):
    await taken(queue)
    await queue.cancel("a")
    assert not await queue.finish(result_of("a"))
    assert not await queue.fail("a", InferenceFailed("no numbers"))
    assert not await queue.finish(result_of("unknown"))
    assert photos_counted(metrics) == {"cancelled": 1}


async def test_what_is_answered_without_a_job_or_handed_back_is_not_counted(queue, metrics):
    await queue.keep(result_of("direct"))
    await queue.delete("direct")
    await taken(queue)
    await queue.hand_back("a")
    assert photos_counted(metrics) == {}


async def test_the_age_of_the_oldest_that_waits_is_told(queue, metrics):
    def age_s(lane):
        return metrics.registry.get_sample_value("restore_photo_queue_oldest_age_seconds", {"lane": lane.value})

    begin_s = time.time()
    await queue.admit(photo("a", Lane.BATCH))
    await queue.admit(photo("b", Lane.BATCH))
    before_s = age_s(Lane.BATCH)
    assert 0 <= before_s < age_s(Lane.BATCH) <= time.time() - begin_s + 1
    await take_all(queue)
    assert age_s(Lane.BATCH) == 0
