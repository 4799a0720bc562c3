"""A real Redis that is killed, restarted, paused, emptied, or out of memory."""

import asyncio
import contextlib
import time

import pytest

from service.access.caller import Quota, Rate
from service.brokers.keys import MeterKeys
from service.brokers.redis_jobs import RedisJobQueue, SharedJobLimits
from service.brokers.redis_meter import RedisMeter
from service.brokers.redis_streams import RedisBroker
from service.core.errors import Cancelled, DeadlineExceeded, DependencyUnavailable, InferenceFailed, QueueFull
from service.core.jobs import Idempotency, JobState
from service.core.metrics import Metrics
from tests.face_queues import drain, photo, restored
from tests.job_queues import HOOK, Watching, result_of
from tests.job_queues import photo as photo_job
from tests.redis_servers import VERSIONS, RedisServer, fresh_prefix, require_binary

LONG_S = 30.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(params=VERSIONS)
def server(request, tmp_path_factory):
    """A server of the test's own, which forgets nothing it has confirmed."""
    server = RedisServer(require_binary(request.param), tmp_path_factory.mktemp("r"), *DURABLE)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def make_broker(server):
    async with contextlib.AsyncExitStack() as stack:
        prefix = fresh_prefix()

        def make(**settings):
            given = {"max_queued_faces": 64, "metrics": Metrics(), **settings}
            broker = RedisBroker(server.url, prefix=prefix, **given)
            stack.push_async_callback(broker.close)
            return broker

        yield make
        if not server.tell("PING"):
            server.start()


@pytest.fixture
async def queue(server):
    limits = SharedJobLimits(max_queued_photos=64, result_ttl_s=3600.0)
    queue = RedisJobQueue(server.url, limits, metrics=Metrics(), prefix=fresh_prefix())
    yield queue
    await queue.close()


async def test_a_restart_loses_no_face(server, make_broker):
    gateway, worker = make_broker(), make_broker()
    for job_id in "abc":
        await gateway.submit(photo(job_id, 4))
    at_work = await worker.take(5, LONG_S)
    await worker.complete(restored(at_work[0]))
    await worker.hand_back(at_work[1:2])
    waiting = [asyncio.create_task(gateway.results(job_id, LONG_S)) for job_id in "abc"]
    await asyncio.sleep(0.05)
    server.kill()
    server.start()
    assert await gateway.depth() == 8
    for job in [*at_work[2:], *await drain(worker)]:
        await worker.complete(restored(job))
    for faces in await asyncio.gather(*waiting):
        assert [face.face_index for face in faces] == [0, 1, 2, 3]
    assert await gateway.depth() == 0


async def test_a_restart_loses_no_photo(server, queue):
    same = Idempotency("key", "print")
    for job_id in ("done", "running", "waits"):
        await queue.admit(photo_job(job_id, webhook_url=HOOK), same if job_id == "waits" else None)
    await queue.take(0)
    await queue.finish(result_of("done"))
    await queue.take(0)
    watching = Watching(queue, "done")
    server.kill()
    server.start()
    assert [status.state for status in await watching.end()][-1] is JobState.SUCCEEDED
    assert (await queue.result("done")).restoration == result_of("done")
    assert (await queue.due_notice(LONG_S)).url == HOOK
    assert await queue.beat(["running"]) == set()
    assert (await queue.admit(photo_job("again"), same)).job_id == "waits"
    assert (await queue.take(0)).job_id == "waits"
    await queue.finish(result_of("running"))
    assert (await queue.status("running")).state is JobState.SUCCEEDED


async def test_while_the_server_is_away_every_call_says_so_and_waiting_goes_on(server, make_broker):
    gateway, worker = make_broker(), make_broker()
    await gateway.submit(photo("a"))
    (job,) = await worker.take(1, LONG_S)
    waiting = asyncio.create_task(gateway.results("a", LONG_S))
    await asyncio.sleep(0.05)
    server.kill()
    for call in (
        gateway.submit(photo("b")),
        worker.take(1, 0),
        worker.take(1, 0.05),
        worker.beat({job.key: 1}),
        worker.complete(restored(job)),
        worker.fail(job, Cancelled("no")),
        gateway.cancel("a"),
        gateway.depth(),
    ):
        with pytest.raises(DependencyUnavailable, match="does not answer"):
            await call
    assert not await gateway.ready()
    with pytest.raises(DeadlineExceeded):
        await gateway.results("a", 0.05)
    assert not waiting.done()
    server.start()
    assert await gateway.ready()
    assert await worker.beat({job.key: 1}) == set()
    await worker.complete(restored(job))
    assert len(await waiting) == 1


async def test_a_server_that_hangs_is_not_ready(server, make_broker):
    broker = make_broker()
    assert await broker.ready()
    server.pause()
    try:
        assert not await broker.ready()
    finally:
        server.resume()
    assert await broker.ready()


async def test_a_face_whose_reply_was_lost_is_handed_out_again(server, make_broker):
    broker = make_broker(lease_s=3600)
    await broker.submit(photo("a", 2))
    (held,) = await broker.take(1, 0)
    server.pause()
    taking = asyncio.create_task(broker.take(1, 0))
    await asyncio.sleep(0.1)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    server.resume()
    assert [job.key for job in await drain(broker)] == [key for key in [("a", 0), ("a", 1)] if key != held.key]
    assert await broker.beat({held.key: 1}) == set()


async def test_a_queue_that_is_closed_has_no_work_though_its_server_dies_before_it_answers(server, make_broker):
    broker = make_broker()
    server.pause()
    taking = asyncio.create_task(broker.take(1, LONG_S))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(broker.close())
    await asyncio.sleep(0.1)
    server.kill()
    await closing
    assert await taking == []


async def test_scripts_are_loaded_again_where_they_were_flushed(server, make_broker):
    broker = make_broker()
    for job_id in "ab":
        await broker.submit(photo(job_id))
        server.tell("SCRIPT", "FLUSH")
        (job,) = await broker.take(1, LONG_S)
        server.tell("SCRIPT", "FLUSH")
        await broker.complete(restored(job))
        server.tell("SCRIPT", "FLUSH")
        assert len(await broker.results(job_id, LONG_S)) == 1


async def test_an_emptied_server_is_a_new_queue(server, make_broker, caplog):
    broker = make_broker()
    await broker.submit(photo("lost", 2))
    (job,) = await broker.take(1, LONG_S)
    server.tell("FLUSHALL")
    assert await broker.beat({job.key: 1}) == {job.key}
    assert "lost" not in caplog.text
    assert await broker.take(1, 0) == []
    await broker.complete(restored(job))
    with pytest.raises(Cancelled):
        await broker.results("lost", LONG_S)
    assert caplog.text.count("the server has lost the queue of faces") == 1
    await broker.submit(photo("new"))
    (job,) = await broker.take(1, LONG_S)
    await broker.complete(restored(job))
    assert len(await broker.results("new", LONG_S)) == 1


async def test_a_full_memory_refuses_what_comes_and_lets_go_on_what_is_there(server, make_broker, queue):
    broker = make_broker()
    await broker.submit(photo("a", 2))
    (job,) = await broker.take(1, LONG_S)
    for job_id in ("begun", "unwanted", "forgotten", "bad"):
        await queue.admit(photo_job(job_id))
    await queue.take(0)
    server.tell("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(DependencyUnavailable, match="out of memory"):
        await broker.submit(photo("b"))
    with pytest.raises(QueueFull, match="memory"):
        await queue.admit(photo_job("c"))
    assert await queue.keep(result_of("direct")) is None
    assert await broker.beat({job.key: 1}) == set()
    await broker.hand_back([job])
    assert await broker.depth() == 2
    for face in await drain(broker):
        await broker.complete(restored(face))
    assert len(await broker.results("a", LONG_S)) == 2
    await queue.finish(result_of("begun"))
    assert (await queue.result("begun")).restoration == result_of("begun")
    assert (await queue.cancel("unwanted")).state is JobState.CANCELLED
    await queue.delete("forgotten")
    await queue.fail((await queue.take(0)).job_id, InferenceFailed("not finite"))
    assert (await queue.status("bad")).state is JobState.FAILED
    assert await queue.depth() == 0
    server.tell("CONFIG", "SET", "maxmemory", "0")
    await broker.submit(photo("b"))
    assert (await queue.admit(photo_job("c"))).is_new


async def test_a_full_memory_holds_up_no_notice(server, queue):
    await queue.admit(photo_job("a", webhook_url=HOOK))
    await queue.cancel("a")
    server.tell("CONFIG", "SET", "maxmemory", "1")
    first = await queue.due_notice(0)
    await queue.settle_notice(first, 0.0)
    again = await queue.due_notice(LONG_S)
    assert (again.notice_id, again.attempt) == (first.notice_id, 1)
    await queue.settle_notice(again, None)
    assert await queue.due_notice(0) is None


async def test_a_full_memory_leaves_no_account_uncorrected(server):
    meter, quota = RedisMeter(server.url, prefix=fresh_prefix()), Quota(face_px=100, window_s=3600.0)
    try:
        await meter.spend("shop", quota, 10)
        server.tell("CONFIG", "SET", "maxmemory", "1")
        for _ in range(2):
            await meter.correct("shop", 3600.0, 90, once="photo")
        server.tell("CONFIG", "SET", "maxmemory", "0")
        spending = await meter.spend("shop", quota, 10)
        assert (spending.accepted, spending.spent_face_px) == (False, 100)
    finally:
        await meter.close()


async def test_a_full_memory_lets_callers_with_a_rate_in(server):
    meter, rate = RedisMeter(server.url, prefix=fresh_prefix()), Rate(per_s=1 / 3600, burst=2)
    server.tell("CONFIG", "SET", "maxmemory", "1")
    try:
        assert [(await meter.knock("shop", rate)).wait_s > 0 for _ in range(3)] == [False, False, True]
    finally:
        await meter.close()


async def test_a_clock_of_the_server_that_is_set_back_shuts_nobody_out(server):
    prefix, rate = fresh_prefix(), Rate(per_s=1 / 60, burst=2)
    meter = RedisMeter(server.url, prefix=prefix)
    try:
        await meter.knock("shop", rate)
        server.tell("SET", MeterKeys(prefix).rate("shop"), str(round((time.time() + 3600) * 1e6)))
        assert [(await meter.knock("shop", rate)).wait_s > 0 for _ in range(3)] == [False, False, True]
    finally:
        await meter.close()


async def test_memory_is_left_for_the_faces_of_photos_that_are_admitted(server, make_broker, queue):
    broker = make_broker()

    def take_up(share):
        used = next(line for line in server.tell("INFO", "memory").splitlines() if line.startswith("used_memory:"))
        server.tell("CONFIG", "SET", "maxmemory", str(round(int(used.removeprefix("used_memory:")) / share)))

    take_up(0.3)
    assert await queue.keep(result_of("early")) is not None
    take_up(0.65)
    assert await queue.keep(result_of("late")) is None
    await queue.admit(photo_job("a"))
    take_up(0.9)
    with pytest.raises(QueueFull, match="the memory for photos and results is full") as refused:
        await queue.admit(photo_job("b"))
    assert refused.value.extra["retry_after_s"] >= 1
    await broker.submit(photo("a"))


async def test_memory_is_left_for_the_results_of_photos_that_are_admitted(server, queue):
    for job_id in map(str, range(12)):
        await queue.admit(photo_job(job_id))
        await queue.take(LONG_S)
        await queue.finish(result_of(job_id, bytes(1_000_000)))
    used = next(line for line in server.tell("INFO", "memory").splitlines() if line.startswith("used_memory:"))
    server.tell("CONFIG", "SET", "maxmemory", str(round((int(used.removeprefix("used_memory:")) + 2_500_000) / 0.8)))
    for job_id in "abc":
        await queue.admit(photo_job(job_id))
    await queue.take(LONG_S)  # who is under way will have a result, too
    with pytest.raises(QueueFull, match="the memory for photos and results is full"):
        await queue.admit(photo_job("d"))
    await queue.cancel("c")
    await queue.admit(photo_job("d"))


async def test_a_replica_cannot_do_it_now(server, make_broker):
    broker = make_broker()
    assert await broker.ready()
    server.tell("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(DependencyUnavailable, match="cannot do this now"):
        await broker.submit(photo("a"))
    assert not await broker.ready()
    server.tell("REPLICAOF", "NO", "ONE")
    await broker.submit(photo("a"))
    assert await broker.ready()
    assert await broker.depth() == 1


@pytest.mark.parametrize("rights", ["-publish", "-evalsha -eval", "-xadd", "resetchannels", "resetkeys ~other"])
async def test_what_the_user_has_no_right_to_is_waited_for(server, make_broker, rights):
    broker = make_broker()
    await broker.submit(photo("a"))
    server.tell("ACL", "SETUSER", "default", *rights.split())
    with pytest.raises(DependencyUnavailable, match="refuses this to its user"):
        await broker.submit(photo("b"))
    server.tell("ACL", "SETUSER", "default", "allkeys", "allchannels", "+@all")
    await broker.submit(photo("b"))
    assert await broker.depth() == 2


async def test_a_server_that_asks_for_a_password_now_is_waited_for(server, make_broker):
    broker = make_broker()
    server.tell("CONFIG", "SET", "requirepass", "another")
    try:
        for _ in range(2):
            with pytest.raises(DependencyUnavailable):  # some versions hang up instead of refusing
                await broker.submit(photo("a", 4))
    finally:
        server.tell("-a", "another", "CONFIG", "SET", "requirepass", "")


async def test_silence_right_after_a_restart_is_not_held_against_a_worker(server, make_broker):
    gateway, worker = make_broker(lease_s=4.0), make_broker(lease_s=4.0)
    await gateway.submit(photo("a"))
    (job,) = await worker.take(1, LONG_S)
    server.kill()
    await asyncio.sleep(4.1)
    server.start()
    assert await gateway.take(1, 0) == []
    assert await worker.beat({job.key: 1}) == set()
