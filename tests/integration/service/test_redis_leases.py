"""Faces on lease in a real Redis: who is silent loses them, who is lost too often loses the job."""

import asyncio
import contextlib
import time

import pytest
from redis.asyncio import Redis

from service.brokers.redis_lanes import Lanes
from service.brokers.redis_streams import RedisBroker
from service.core.errors import Abandoned, Cancelled, DeadlineExceeded, InferenceFailed, QueueFull, ServiceError
from service.core.metrics import Metrics
from service.core.types import Lane
from tests.face_queues import names, photo, restored
from tests.redis_servers import VERSIONS, fresh_prefix, shared_server

LEASE_S = 0.2
LONG_S = 30.0


@pytest.fixture(params=VERSIONS)
def server(request):
    return shared_server(request.param)


class Deployment:
    """Any number of brokers that share one queue, and a look behind it."""

    def __init__(self, server, stack):
        self._server = server
        self._stack = stack
        self.prefix = fresh_prefix()
        self.client = Redis.from_url(server.url)
        stack.push_async_callback(self.client.aclose)

    def broker(self, **settings):
        given = {"max_queued_faces": 64, "metrics": Metrics(), "lease_s": LEASE_S, **settings}
        broker = RedisBroker(self._server.url, prefix=self.prefix, **given)
        self._stack.push_async_callback(broker.close)
        return broker

    def key(self, *parts):
        return ":".join((self.prefix, "faces", *parts))

    async def keys(self):
        return {
            key.decode().removeprefix(f"{self.prefix}:faces:") async for key in self.client.scan_iter(f"{self.prefix}*")
        }


@pytest.fixture
async def deployment(server):
    async with contextlib.AsyncExitStack() as stack:
        yield Deployment(server, stack)


async def take_one(broker):
    """A face, however long it takes to come back from a silent worker."""
    for _ in range(round(LONG_S / LEASE_S)):
        if jobs := await broker.take(1, LEASE_S):
            return jobs[0]
    pytest.fail("no face came")


def counted(metrics, line):
    return line in metrics.render().decode().splitlines()


async def test_a_face_of_a_silent_worker_goes_to_another(deployment):
    metrics = Metrics()
    silent, other = deployment.broker(), deployment.broker(metrics=metrics)
    await silent.submit(photo("a", lane=Lane.BATCH))
    (lost,) = await silent.take(1, LONG_S)
    found = await take_one(other)
    assert (found.crop == lost.crop).all()
    assert found.key == lost.key
    assert counted(metrics, 'restore_reclaimed_total{lane="batch"} 1.0')
    await silent.complete(restored(lost, 0.0))
    assert await silent.beat({lost.key: 1}) == {lost.key}
    await silent.hand_back([lost])
    await silent.fail(lost, InferenceFailed("late"))
    assert await other.beat({found.key: 1}) == set()
    await other.complete(restored(found, 1.0))
    (result,) = await silent.results("a", LONG_S)
    assert result.sample.mean() == 1.0


async def test_a_clock_of_the_server_that_is_set_back_forgives_no_silence(deployment):
    silent, other = deployment.broker(), deployment.broker()
    await silent.submit(photo("a"))
    (lost,) = await silent.take(1, LONG_S)
    await deployment.client.hset(deployment.key("state"), "since", round((time.time() + 3600) * 1e6))
    await deployment.client.pexpire(deployment.key("swept"), 3_600_000)
    assert (await take_one(other)).key == lost.key


async def test_a_worker_that_beats_keeps_its_face_however_long_it_takes(deployment):
    slow, idle = deployment.broker(lease_s=2.0), deployment.broker(lease_s=2.0)
    await slow.submit(photo("a"))
    (job,) = await slow.take(1, LONG_S)
    for steps in range(15):
        assert await slow.beat({job.key: steps}) == set()
        assert await idle.take(1, 0.2) == []
    await slow.complete(restored(job))
    assert len(await idle.results("a", LONG_S)) == 1


async def test_a_worker_that_could_not_be_heard_goes_on_with_what_is_still_its_own(deployment):
    cut_off, other = deployment.broker(max_deliveries=1), deployment.broker(max_deliveries=9)
    await cut_off.submit(photo("a"))
    (job,) = await cut_off.take(1, LONG_S)
    await asyncio.sleep(2 * LEASE_S)
    assert await cut_off.take(1, 0) == []
    for _ in range(3):
        assert await other.take(0, 2 * LEASE_S) == []
        assert await cut_off.take(1, 0) == []
        assert await cut_off.beat({job.key: 1}) == set()
    await cut_off.complete(restored(job))
    assert len(await other.results("a", LONG_S)) == 1


async def test_a_photo_that_costs_every_worker_its_life_is_given_up(deployment):
    metrics = Metrics()
    gateway = deployment.broker(max_deliveries=3, metrics=metrics)
    await gateway.submit(photo("poison"))
    waiting = asyncio.create_task(gateway.results("poison", LONG_S))
    for _ in range(3):
        assert (await take_one(deployment.broker(max_deliveries=3))).job_id == "poison"
    await gateway.submit(photo("harmless"))
    while not waiting.done():
        for job in await gateway.take(4, LEASE_S):
            await gateway.complete(restored(job))
    with pytest.raises(Abandoned, match="3 processes"):
        await waiting
    assert len(await gateway.results("harmless", LONG_S)) == 1
    ((_, letter),) = await deployment.client.xrange(deployment.key("dead"))
    assert letter == {
        b"job": b"poison",
        b"item": b"0",
        b"lane": b"interactive",
        b"reason": b"deliveries",
        b"deliveries": b"3",
    }
    assert counted(metrics, 'restore_dead_total{reason="deliveries"} 1.0')
    assert await gateway.depth() == 0


async def test_handing_back_is_not_held_against_a_face(deployment):
    broker = deployment.broker(max_deliveries=1)
    await broker.submit(photo("a"))
    for _ in range(5):
        jobs = await broker.take(1, LONG_S)
        await broker.hand_back(jobs)
    await asyncio.sleep(2 * LEASE_S)
    (job,) = await broker.take(1, LONG_S)
    await broker.complete(restored(job))
    assert len(await broker.results("a", LONG_S)) == 1


async def test_a_closed_worker_gives_its_faces_back_at_once(deployment):
    gateway, leaving = deployment.broker(lease_s=3600), deployment.broker(lease_s=3600)
    await gateway.submit(photo("a", 3))
    assert len(await leaving.take(2, LONG_S)) == 2
    await leaving.close()
    assert sorted(names(await gateway.take(8, LONG_S))) == [("a", 0), ("a", 1), ("a", 2)]
    groups = await deployment.client.xinfo_consumers(deployment.key("lane", "interactive"), "takers")
    assert len([group for group in groups if group["name"] != b"~front"]) == 1


async def test_a_face_whose_reply_nobody_awaited_is_handed_out_again(deployment):
    broker = deployment.broker(lease_s=3600)
    await broker.submit(photo("a", 20))
    for _ in range(40):
        taking = asyncio.create_task(broker.take(1, 0))
        for _ in range(3):
            await asyncio.sleep(0)
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await broker.hand_back(await taking)
    assert sorted(names(await broker.take(64, 0))) == [("a", index) for index in range(20)]


async def test_pixels_that_are_gone_fail_their_photo_and_no_other(deployment):
    metrics = Metrics()
    broker = deployment.broker(metrics=metrics)
    await broker.submit(photo("a", 2))
    await broker.submit(photo("b"))
    await deployment.client.delete(deployment.key("payload", "a", "0"))
    await deployment.client.set(deployment.key("payload", "b", "0"), b"no face at all")
    assert await broker.take(4, 0) == []
    with pytest.raises(DeadlineExceeded, match="waited so long"):
        await broker.results("a", LONG_S)
    with pytest.raises(ServiceError, match="no FaceJob"):
        await broker.results("b", LONG_S)
    assert counted(metrics, 'restore_dead_total{reason="payload_lost"} 1.0')
    assert counted(metrics, 'restore_dead_total{reason="payload_unreadable"} 1.0')
    assert await deployment.client.xlen(deployment.key("dead")) == 2


async def test_a_photo_that_is_withdrawn_while_it_is_taken_is_no_dead_one(deployment, monkeypatch, caplog):
    metrics = Metrics()
    broker, get_many = deployment.broker(metrics=metrics), Lanes.get_many
    await broker.submit(photo("a", 2))

    async def after_all(lanes, names):
        await broker.cancel("a")
        return await get_many(lanes, names)

    monkeypatch.setattr(Lanes, "get_many", after_all)
    assert await broker.take(4, 0) == []
    assert counted(metrics, 'restore_dead_total{reason="payload_lost"} 0.0')
    assert await deployment.client.xlen(deployment.key("dead")) == 0
    assert caplog.records == []


async def test_pixels_expire_and_what_waits_does_not(deployment):
    broker = deployment.broker(payload_ttl_s=50)
    await broker.submit(photo("a", 2))
    assert 0 < await deployment.client.ttl(deployment.key("payload", "a", "1")) <= 50
    for job in (await broker.take(2, LONG_S))[:1]:
        await broker.complete(restored(job))
    assert {"payload:a:0", "payload:a:1"} & await deployment.keys() == {"payload:a:1"}
    assert 0 < await deployment.client.ttl(deployment.key("result", "a", "0")) <= 50
    lasting = [("job", "a"), ("lane", "interactive"), ("state",)]
    assert [await deployment.client.ttl(deployment.key(*parts)) for parts in lasting] == [-1, -1, -1]


async def test_the_first_result_of_a_photo_lasts_as_long_as_the_last(deployment):
    broker = deployment.broker(payload_ttl_s=3600)
    await broker.submit(photo("a", 2))
    first, last = await broker.take(2, LONG_S)
    await broker.complete(restored(first))
    await deployment.client.expire(deployment.key("result", "a", "0"), 50)  # as if the last one took an hour
    await broker.complete(restored(last))
    for parts in (("result", "a", "0"), ("result", "a", "1"), ("job", "a")):
        assert 50 < await deployment.client.ttl(deployment.key(*parts)) <= 3600


async def test_results_nobody_fetches_expire_with_everything_about_their_job(deployment):
    broker = deployment.broker(payload_ttl_s=2)
    await broker.submit(photo("a", 2))
    for job in await broker.take(2, LONG_S):
        await broker.complete(restored(job))
    for _ in range(1000):
        left = await deployment.keys()
        if not any("a" in key.split(":")[1:] for key in left):
            break
        await asyncio.sleep(0.01)
    assert left <= {"lane:interactive", "lane:batch", "state", "swept"}
    with pytest.raises(Cancelled):
        await broker.results("a", LONG_S)


async def test_what_has_ended_leaves_nothing_behind(deployment):
    broker = deployment.broker()
    for job_id in ("done", "failed", "withdrawn", "waiting"):
        await broker.submit(photo(job_id, 3, deadline_s=4e9))
    jobs = await broker.take(8, LONG_S)
    assert len(await broker.take(8, LONG_S)) == 4
    for job in jobs[:1] + [job for job in photo("done", 3) if job.key != jobs[0].key]:
        await broker.complete(restored(job))
    await broker.fail(photo("failed")[0], InferenceFailed("no"))
    await broker.cancel("withdrawn")
    await broker.cancel("waiting")
    await broker.results("done", LONG_S)
    with pytest.raises(InferenceFailed):
        await broker.results("failed", LONG_S)
    assert await deployment.keys() <= {"lane:interactive", "lane:batch", "state", "swept"}
    assert await deployment.client.xlen(deployment.key("lane", "interactive")) == 0
    assert (await deployment.client.xpending(deployment.key("lane", "interactive"), "takers"))["pending"] == 0


async def test_what_was_handed_back_and_is_withdrawn_leaves_nothing_behind(deployment):
    broker = deployment.broker()
    await broker.submit(photo("a", 3))
    await broker.hand_back(await broker.take(2, LONG_S))
    await broker.cancel("a")
    assert await deployment.keys() <= {"lane:interactive", "lane:batch", "state", "swept"}
    assert await deployment.client.xlen(deployment.key("lane", "interactive")) == 0


async def test_the_group_begins_with_the_first_entry_and_no_stream_is_trimmed(deployment):
    broker = deployment.broker(max_queued_faces=5000)
    await broker.submit(photo("first"))
    (group,) = await deployment.client.xinfo_groups(deployment.key("lane", "interactive"))
    assert group["last-delivered-id"] == b"0-0"
    for number in range(400):
        await broker.submit(photo(f"job {number}"))
    assert await deployment.client.xlen(deployment.key("lane", "interactive")) == 401
    assert await broker.depth() == 401


async def test_a_photo_has_one_place_in_its_lane(deployment):
    broker = deployment.broker()
    await broker.submit(photo("group", 10))
    await broker.submit(photo("portrait"))
    assert await deployment.client.xlen(deployment.key("lane", "interactive")) == 2
    assert names(await broker.take(4, 0)) == [("group", 0), ("portrait", 0), ("group", 1), ("group", 2)]


async def test_every_fifth_face_is_of_the_batch_lane_whichever_worker_takes_it(deployment):
    brokers = [deployment.broker(lease_s=3600) for _ in range(3)]
    await brokers[0].submit(photo("interactive", 20))
    await brokers[1].submit(photo("batch", 20, lane=Lane.BATCH))
    taken = [(await brokers[turn % 3].take(1, 0))[0] for turn in range(25)]
    assert "".join(job.lane.value[0] for job in taken) == "iiiib" * 5


async def test_a_job_nobody_can_be_interested_in_any_more_is_forgotten(deployment):
    metrics = Metrics()
    broker = deployment.broker(metrics=metrics)
    await broker.submit(photo("orphan", 3, deadline_s=1.0))
    await broker.submit(photo("patient"))
    assert await deployment.client.zadd(deployment.key("overdue"), {"orphan": 1.0}, xx=True, ch=True) == 1
    await broker.submit(photo("new"))
    assert await broker.depth() == 2
    assert counted(metrics, 'restore_cancelled_total{phase="queued"} 3.0')
    with pytest.raises(Cancelled):
        await broker.results("orphan", 0)


async def test_retry_after_follows_the_pace_of_all_workers(deployment):
    gateway, worker = deployment.broker(max_queued_faces=8), deployment.broker()
    await gateway.submit(photo("waits", 8, lane=Lane.BATCH))

    async def retry_after_s():
        with pytest.raises(QueueFull) as refusal:
            await gateway.submit(photo("late", 40, lane=Lane.BATCH))
        return refusal.value.extra["retry_after_s"]

    assert await retry_after_s() == 40
    for number in range(30):
        await gateway.submit(photo(f"fast {number}"))
        (job,) = await worker.take(1, LONG_S)
        await worker.complete(restored(job))
    assert 1 <= await retry_after_s() < 40


async def test_metrics_tell_depth_age_waits_and_withdrawals(deployment):
    metrics = Metrics()
    broker = deployment.broker(metrics=metrics)
    await broker.submit(photo("a", 3))
    await broker.submit(photo("b", 2, lane=Lane.BATCH))
    await broker.take(1, 0)
    await broker.cancel("a")
    for line in (
        'restore_queue_depth{lane="interactive"} 0.0',
        'restore_queue_depth{lane="batch"} 2.0',
        'restore_queue_oldest_age_seconds{lane="interactive"} 0.0',
        'restore_queue_wait_seconds_count{lane="interactive"} 1.0',
        'restore_cancelled_total{phase="queued"} 2.0',
    ):
        assert counted(metrics, line), line
    ages = [line for line in metrics.render().decode().splitlines() if line.startswith("restore_queue_oldest")]
    assert float(next(age for age in ages if "batch" in age).split()[-1]) > 0


async def test_a_gateway_that_looks_late_sees_what_others_have_changed(deployment):
    metrics = Metrics()
    looking, other = deployment.broker(metrics=metrics), deployment.broker()
    await looking.submit(photo("a", 2))
    await other.take(2, 0)
    assert counted(metrics, 'restore_queue_depth{lane="interactive"} 2.0')
    assert await looking.depth() == 0
    assert counted(metrics, 'restore_queue_depth{lane="interactive"} 0.0')
