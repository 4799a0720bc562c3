"""Photos on lease in a real Redis, shared by gateways that come and go."""

import asyncio
import contextlib
import json

import pytest
from redis.asyncio import Redis

from service.brokers import redis_jobs
from service.brokers.codec import encode
from service.brokers.redis_jobs import RedisJobQueue, SharedJobLimits
from service.core.errors import Abandoned, DeadlineExceeded, ImageTooLarge, NotFound, ServiceError
from service.core.jobs import Idempotency, JobState, Progress
from service.core.metrics import Metrics
from service.core.types import Lane
from tests.job_queues import HOOK, LONG_S, Watching, photo, photos_counted, result_of
from tests.redis_servers import VERSIONS, fresh_prefix, shared_server

LEASE_S = 0.2
LASTING = {"lane:interactive", "lane:batch", "state", "swept"}


@pytest.fixture(params=VERSIONS)
async def server(request):
    async with contextlib.AsyncExitStack() as stack:
        yield Gateways(shared_server(request.param).url, stack)


class Gateways:
    """Any number of gateways that share one queue, and a look behind it."""

    def __init__(self, url, stack):
        self._url = url
        self._stack = stack
        self.prefix = fresh_prefix()
        self.client = Redis.from_url(url)
        stack.push_async_callback(self.client.aclose)

    def queue(self, *, metrics=None, **limits):
        given = {"max_queued_photos": 64, "result_ttl_s": 3600.0, "lease_s": LEASE_S, **limits}
        queue = RedisJobQueue(self._url, SharedJobLimits(**given), metrics=metrics or Metrics(), prefix=self.prefix)
        self._stack.push_async_callback(queue.close)
        return queue

    def key(self, *parts):
        return ":".join((self.prefix, "photos", *parts))

    async def keys(self):
        start = f"{self.prefix}:photos:"
        return {key.decode().removeprefix(start) async for key in self.client.scan_iter(f"{self.prefix}*")}


async def take_one(queue):
    """A photo, however long it takes to come back from a silent gateway."""
    for _ in range(round(LONG_S / LEASE_S)):
        if (job := await queue.take(LEASE_S)) is not None:
            return job
    pytest.fail("no photo came")


async def test_a_photo_of_a_silent_gateway_goes_to_another(server):
    metrics, lost = Metrics(), Metrics()
    silent, other = server.queue(metrics=lost), server.queue(metrics=metrics)
    await silent.admit(photo("a", Lane.BATCH))
    job = await silent.take(LONG_S)
    await silent.note("a", Progress(1, 0, 4, 1))
    assert await take_one(other) == job
    assert (await other.status("a")).progress is None
    assert await silent.beat(["a"]) == {"a"}
    await silent.note("a", Progress(1, 0, 4, 3))
    assert (await other.status("a")).progress is None
    assert not await silent.finish(result_of("a", b"late"))
    assert not await silent.fail("a", ServiceError("late"))
    assert await other.beat(["a"]) == set()
    assert (await other.status("a")).state is JobState.RUNNING
    assert await other.finish(result_of("a", b"in time"))
    assert (await silent.result("a")).restoration.data == b"in time"
    assert 'restore_reclaimed_total{lane="batch"} 1.0' in metrics.render().decode()
    assert (photos_counted(lost), photos_counted(metrics)) == ({}, {"succeeded": 1})


async def test_an_end_whose_answer_was_lost_counts_once(server):
    metrics = Metrics()
    queue = server.queue(metrics=metrics)
    await queue.admit(photo("a"))
    await queue.take(LONG_S)
    result = result_of("a")
    await queue._lanes.run_as_taker("finish", "a", encode(result), encode(result.report))
    assert photos_counted(metrics) == {}
    assert await queue.finish(result)
    assert photos_counted(metrics) == {"succeeded": 1}


async def test_a_gateway_that_beats_keeps_its_photo(server):
    slow, idle = server.queue(lease_s=2.0), server.queue(lease_s=2.0)
    await slow.admit(photo("a"))
    await slow.take(LONG_S)
    for _ in range(15):
        assert await slow.beat(["a"]) == set()
        assert await idle.take(0.2) is None
    await slow.finish(result_of("a"))
    assert (await idle.status("a")).state is JobState.SUCCEEDED


async def test_a_photo_that_costs_every_gateway_its_life_fails_and_that_is_told(server):
    metrics = Metrics()
    front = server.queue(max_deliveries=2, metrics=metrics)
    await front.admit(photo("poison", webhook_url=HOOK))
    watching = Watching(front, "poison")
    for _ in range(2):
        assert (await take_one(server.queue(max_deliveries=2))).job_id == "poison"
    await front.admit(photo("harmless"))
    while not watching.task.done():
        await front.take(LEASE_S)
    assert (await watching.end())[-1].state is JobState.FAILED
    with pytest.raises(Abandoned, match="2 processes"):
        await front.result("poison")
    notice = await front.due_notice(LONG_S)
    assert json.loads(notice.body)["data"]["error"]["code"] == "abandoned"
    ((_, letter),) = await server.client.xrange(server.key("dead"))
    assert (letter[b"job"], letter[b"reason"], letter[b"deliveries"]) == (b"poison", b"deliveries", b"2")
    assert (await front.status("harmless")).state is not JobState.FAILED
    assert photos_counted(metrics) == {"abandoned": 1}


@pytest.mark.parametrize(("payload", "error"), [(None, DeadlineExceeded), (b"no photo", ServiceError)])
async def test_a_photo_whose_bytes_are_gone_fails_and_that_is_told(server, payload, error):
    queue = server.queue()
    await queue.admit(photo("a", webhook_url=HOOK))
    await server.client.delete(server.key("payload", "a", "0"))
    if payload is not None:
        await server.client.set(server.key("payload", "a", "0"), payload)
    assert await queue.take(0) is None
    with pytest.raises(error):
        await queue.result("a")
    assert (await queue.due_notice(LONG_S)).url == HOOK
    assert await server.client.xlen(server.key("dead")) == 1


async def test_gateways_see_what_the_others_do(server):
    one, other = server.queue(lease_s=3600), server.queue(lease_s=3600)
    for job_id in "abc":
        await one.admit(photo(job_id))
    watching = Watching(other, "c")
    await watching.until(lambda status: status.position == 2)
    assert (await other.take(0)).job_id == "a"
    await watching.until(lambda status: status.position == 1)
    await one.cancel("b")
    await watching.until(lambda status: status.position == 0)
    assert (await one.take(0)).job_id == "c"
    await one.note("c", Progress(2, 1, 8, 5))
    await watching.until(lambda status: status.progress == Progress(2, 1, 8, 5))
    await one.hand_back("c")
    await watching.until(lambda status: status.position == 0 and status.state is JobState.QUEUED)
    assert await other.depth() == 1
    assert (await other.take(0)).job_id == "c"
    await other.finish(result_of("c"))
    assert (await watching.end())[-1].state is JobState.SUCCEEDED


async def test_a_look_at_a_report_does_not_fetch_the_image(server):
    queue = server.queue()
    await queue.admit(photo("a"))
    await queue.take(0)
    await queue.finish(result_of("a"))
    await server.client.delete(server.key("result", "a", "0"))
    assert (await queue.status("a")).report == result_of("a").report


async def test_a_gateway_of_an_earlier_release_that_noted_no_report_has_it_in_the_result(server):
    queue = server.queue()
    await queue.admit(photo("a"))
    await queue.take(LONG_S)
    await queue.finish(result_of("a"))
    status = await queue.status("a")
    await server.client.hdel(server.key("job", "a"), "report")
    assert status.report is not None
    assert await queue.status("a") == status
    assert [told.report async for told in queue.watch("a")] == [status.report]
    await server.client.delete(server.key("result", "a", "0"))
    with pytest.raises(NotFound):
        await queue.status("a")


async def test_one_key_at_several_gateways_at_once_is_one_job(server):
    queues = [server.queue() for _ in range(3)]
    same = Idempotency("key", "print")
    answers = await asyncio.gather(*(queues[turn % 3].admit(photo(f"job {turn}"), same) for turn in range(30)))
    assert len({answer.job_id for answer in answers}) == 1
    assert sum(answer.is_new for answer in answers) == 1


async def test_admitting_twice_what_was_admitted_is_admitting_it_once(server):
    queue = server.queue()
    same = Idempotency("key", "print")
    for idempotency in (None, same):
        job = photo("a" if idempotency is None else "b")
        assert (await queue.admit(job, idempotency)).is_new
        assert (await queue.admit(job, idempotency)).is_new
    assert await queue.depth() == 2


async def test_a_closed_gateway_gives_its_photos_back_at_once(server):
    staying, leaving = server.queue(lease_s=3600), server.queue(lease_s=3600)
    for job_id in "ab":
        await staying.admit(photo(job_id))
    await leaving.take(LONG_S)
    await leaving.close()
    assert sorted([(await staying.take(LONG_S)).job_id for _ in "ab"]) == ["a", "b"]


async def test_deleting_leaves_nothing_behind(server):
    queue = server.queue()
    for job_id in ("queued", "running", "done", "withdrawn", "direct"):
        if job_id == "direct":
            await queue.keep(result_of(job_id))
        else:
            await queue.admit(photo(job_id), Idempotency(job_id, "print"))
        if job_id in ("running", "done"):
            await queue.cancel("queued")
            await queue.take(0)
    await queue.finish(result_of("done"))
    await queue.cancel("withdrawn")
    for job_id in ("queued", "running", "done", "withdrawn", "direct"):
        await queue.delete(job_id)
    assert await server.keys() <= LASTING


async def test_everything_about_a_job_that_has_ended_expires(server):
    queue = server.queue(result_ttl_s=50)
    await queue.admit(photo("a", webhook_url=HOOK), Idempotency("key", "print"))
    await queue.admit(photo("b"))
    assert 0 < await server.client.ttl(server.key("payload", "a", "0")) <= 86400
    await queue.take(0)
    await queue.finish(result_of("a"))
    await queue.keep(result_of("direct"))
    digest = next(key for key in await server.keys() if key.startswith("idempotency:"))
    for key in ("job:a", "result:a:0", digest, "job:direct", "result:direct:0"):
        assert 0 < await server.client.ttl(server.key(key)) <= 50
    assert "payload:a:0" not in await server.keys()
    assert await server.client.ttl(server.key("job", "b")) == -1


async def test_the_key_of_a_photo_that_is_tried_again_lasts_as_long_as_that(server):
    queue, same = server.queue(result_ttl_s=50), Idempotency("key", "print")
    await queue.admit(photo("a"), same)
    await queue.take(0)
    await queue.fail("a", DeadlineExceeded("too late"))
    digest = next(key for key in await server.keys() if key.startswith("idempotency:"))
    assert 0 < await server.client.ttl(server.key(digest)) <= 50
    await queue.admit(photo("b"), same)
    assert await server.client.ttl(server.key(digest)) == -1


async def test_a_result_that_the_server_would_hang_up_on_is_the_photo_s_fault(server, monkeypatch):
    monkeypatch.setattr(redis_jobs, "_MOST_BYTES", 10_000)
    queue = server.queue()
    await queue.admit(photo("a"))
    await queue.take(0)
    with pytest.raises(ImageTooLarge, match="the service keeps at most 10000"):
        await queue.finish(result_of("a", bytes(10_000)))
    assert await queue.finish(result_of("a"))


async def test_a_notice_that_somebody_else_has_settled_does_not_come_back(server):
    slow, quick = server.queue(notice_lease_s=0.05), server.queue()
    await slow.admit(photo("a", webhook_url=HOOK))
    await slow.cancel("a")
    await slow.delete("a")
    notice = await slow.due_notice(LONG_S)
    await quick.settle_notice(await quick.due_notice(LONG_S), None)
    await slow.settle_notice(notice, 0.0)
    assert await server.keys() <= LASTING


async def test_a_notice_that_was_delivered_leaves_nothing_behind(server):
    queue = server.queue()
    await queue.admit(photo("a", webhook_url=HOOK))
    await queue.cancel("a")
    await queue.delete("a")
    await queue.settle_notice(await queue.due_notice(LONG_S), None)
    assert await server.keys() <= LASTING


async def test_the_notice_is_the_same_at_every_attempt(server):
    one, other = server.queue(notice_lease_s=0.05), server.queue(notice_lease_s=0.05)
    await one.admit(photo("a", webhook_url=HOOK))
    await one.take(0)
    await one.fail("a", DeadlineExceeded("too late", hint="be quick"))
    first = await one.due_notice(LONG_S)
    again = await other.due_notice(LONG_S)
    assert first == again
    assert json.loads(first.body)["data"]["error"] == {"code": "deadline_exceeded", "detail": "too late"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_queued_photos", 0), ("result_ttl_s", 0), ("payload_ttl_s", -1), ("notice_lease_s", 0)],
)
def test_limits_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        SharedJobLimits(**{"max_queued_photos": 1, "result_ttl_s": 1.0, field: value})


@pytest.mark.parametrize(("field", "value"), [("lease_s", 0), ("max_deliveries", 0)])
def test_terms_of_leases_are_checked(field, value):
    limits = SharedJobLimits(**{"max_queued_photos": 1, "result_ttl_s": 1.0, field: value})
    with pytest.raises(ValueError, match=field):
        RedisJobQueue("redis://localhost", limits, metrics=Metrics(), prefix="{any}")


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError, match="redis"):
        RedisJobQueue("localhost:6379", SharedJobLimits(1, 1.0), metrics=Metrics(), prefix="{any}")
