"""A job's end is told, in every queue of photos: notices are due, on lease, due again, dropped."""

import asyncio
import json
from dataclasses import replace

import pytest

from service.core.errors import (
    NoFaceFound,
)
from service.core.metrics import Metrics
from service.core.origin import Origin
from tests.job_queues import HOOK, LONG_S, SOON_S, photo, result_of


@pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled"])
async def test_the_end_of_a_job_with_a_webhook_leaves_one_notice(queue, ending):
    await queue.admit(photo("a", webhook_url=HOOK))
    await queue.take(0)
    assert await queue.due_notice(0) is None
    if ending == "succeeded":
        await queue.finish(result_of("a"))
    elif ending == "failed":
        await queue.fail("a", NoFaceFound("none seen"))
    await queue.cancel("a")
    notice = await queue.due_notice(LONG_S)
    assert (notice.url, notice.attempt) == (HOOK, 0)
    document = json.loads(notice.body)
    assert document["type"] == f"restoration.{ending}"
    assert (document["data"]["id"], document["data"]["status"]) == ("a", ending)
    assert ("error" in document["data"]) == (ending == "failed")
    assert await queue.due_notice(0) is None


@pytest.mark.parametrize("origin", [None, Origin("req-1", "00-trace-span-01", "vendor=1", sent_s=5.0)])
async def test_a_notice_tells_us_and_not_its_receiver_which_request_brought_the_job(queue, origin):
    await queue.admit(photo("a", webhook_url=HOOK, origin=origin))
    await queue.cancel("a")
    notice = await queue.due_notice(LONG_S)
    if origin is None:
        assert notice.origin is None
    else:
        assert replace(notice.origin, sent_s=5.0) == origin
    assert b"req-1" not in notice.body


async def test_a_job_cancelled_in_the_line_leaves_a_notice_and_a_deleted_one_none(queue):
    for job_id in ("cancelled", "deleted"):
        await queue.admit(photo(job_id, webhook_url=HOOK))
    await queue.delete("deleted")
    await queue.cancel("cancelled")
    notice = await queue.due_notice(LONG_S)
    assert json.loads(notice.body)["data"]["id"] == "cancelled"
    assert await queue.due_notice(0) is None


async def test_no_notice_without_a_webhook(queue):
    await queue.admit(photo("a"))
    await queue.take(0)
    await queue.finish(result_of("a"))
    await queue.keep(result_of("direct"))
    assert await queue.due_notice(SOON_S) is None


async def leave_notice(queue, job_id="a", **fields):
    await queue.admit(photo(job_id, webhook_url=HOOK, **fields))
    await queue.cancel(job_id)


async def test_who_waits_for_a_notice_wakes_when_one_comes(queue):
    waiting = asyncio.create_task(queue.due_notice(LONG_S))
    await asyncio.sleep(SOON_S)
    await leave_notice(queue)
    assert (await waiting).url == HOOK


async def test_a_notice_is_dropped_when_it_is_settled(make_queue):
    async with make_queue(notice_lease_s=0.1) as queue:
        await leave_notice(queue)
        await queue.settle_notice(await queue.due_notice(LONG_S), None)
        await asyncio.sleep(0.15)
        assert await queue.due_notice(0) is None


async def test_a_notice_comes_due_again_as_the_next_attempt(queue):
    await leave_notice(queue)
    first = await queue.due_notice(LONG_S)
    await queue.settle_notice(first, 1.0)
    assert await queue.due_notice(0) is None
    second = await queue.due_notice(LONG_S)
    assert (second.notice_id, second.url, second.body) == (first.notice_id, first.url, first.body)
    assert (first.attempt, second.attempt) == (0, 1)
    await queue.settle_notice(second, None)
    await queue.settle_notice(second, 0.0)
    assert await queue.due_notice(SOON_S) is None


async def test_a_notice_that_is_postponed_comes_due_again_as_the_same_attempt(queue):
    await leave_notice(queue)
    first = await queue.due_notice(LONG_S)
    await queue.postpone_notice(first, 60.0)
    assert await queue.due_notice(0) is None
    await queue.postpone_notice(first, 0.0)
    again = await queue.due_notice(LONG_S)
    assert again == first
    await queue.settle_notice(again, None)
    await queue.postpone_notice(again, 0.0)
    assert await queue.due_notice(SOON_S) is None


async def test_a_notice_that_is_not_settled_comes_due_again(make_queue):
    async with make_queue(notice_lease_s=0.1) as queue:
        await leave_notice(queue)
        first = await queue.due_notice(LONG_S)
        again = await queue.due_notice(LONG_S)
        assert again.notice_id == first.notice_id


async def test_a_notice_outlives_its_job(queue):
    await leave_notice(queue)
    await queue.delete("a")
    assert await queue.due_notice(LONG_S) is not None


async def test_notices_are_handed_out_once_each(queue):
    for number in range(5):
        await leave_notice(queue, f"job {number}")
    notices = await asyncio.gather(*(queue.due_notice(LONG_S) for _ in range(5)))
    assert len({notice.notice_id for notice in notices}) == 5
    assert await queue.due_notice(0) is None


async def test_a_notice_tells_us_whose_it_is(queue):
    await queue.admit(photo("a", webhook_url=HOOK, owner="shop"))
    await queue.cancel("a")
    notice = await queue.due_notice(LONG_S)
    assert notice.owner == "shop"
    assert b"shop" not in notice.body


async def notices_left(queue):
    """Jobs whose notices are due, in turn."""
    found = []
    while notice := await queue.due_notice(0):
        found.append(json.loads(notice.body)["data"]["id"])
        await queue.settle_notice(notice, None)
    return found


async def test_who_has_most_notices_makes_room_for_others(make_queue, caplog):
    metrics = Metrics()
    async with make_queue(max_notices=3, metrics=metrics) as queue:
        await leave_notice(queue, "mine", owner="shop")
        for job_id in "abcd":
            await leave_notice(queue, job_id, owner="flood")
        assert await notices_left(queue) == ["mine", "c", "d"]
        assert caplog.text.count("makes room") == 2
        assert b'restore_notices_total{outcome="given_up"} 2.0' in metrics.render()
        for job_id in "efgh":
            await leave_notice(queue, job_id)
        assert await notices_left(queue) == ["f", "g", "h"]


async def test_a_courier_that_does_not_know_yet_that_the_queue_is_closed_lets_others_go_on(queue):
    assert await queue.due_notice(SOON_S) is None
    await queue.close()
    went_on = asyncio.Event()
    asyncio.get_running_loop().call_soon(went_on.set)
    assert await queue.due_notice(SOON_S) is None
    assert went_on.is_set()
