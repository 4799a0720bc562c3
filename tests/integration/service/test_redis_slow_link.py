"""A way to Redis that is slow, and one that has fallen silent."""

import asyncio
import contextlib

import pytest
from redis.asyncio import Redis

from service.brokers.redis_connection import _PART_BYTES, RedisConnection
from service.brokers.redis_jobs import RedisJobQueue, SharedJobLimits
from service.brokers.redis_listener import Listener
from service.core.errors import DependencyUnavailable, ImageTooLarge
from service.core.jobs import JobState
from service.core.metrics import Metrics
from tests.job_queues import photo, result_of
from tests.redis_links import Link
from tests.redis_servers import VERSIONS, fresh_prefix, shared_server

LONG_S = 30.0
LARGE = bytes(200_000)


@pytest.fixture
async def link(tmp_path):
    async with Link(shared_server("7").url, str(tmp_path / "link.sock")) as link:
        yield link


@pytest.fixture
async def queue(link):
    """A queue at the other end of the link, whose calls may take 0.1 s."""
    limits = SharedJobLimits(max_queued_photos=64, result_ttl_s=3600.0)
    queue = RedisJobQueue(link.url, limits, metrics=Metrics(), prefix=fresh_prefix())
    queue._lanes._connection._timeout_s = 0.1
    yield queue
    link.most_request_bytes = None
    await queue.close()


async def begin(queue):
    await queue.admit(photo("a"))
    while await queue.take(0) is None:
        pass


async def test_what_is_large_has_longer_to_get_there(link):
    connection = RedisConnection(link.url, timeout_s=0.05)
    link.pause_s = 0.2
    name = f"{fresh_prefix()}:value"
    try:
        with pytest.raises(DependencyUnavailable):
            await connection.put(name, b"small", ttl_ms=60_000)
        await connection.put(name, bytes(5 * 2**20), ttl_ms=60_000)
    finally:
        await connection.close()


async def test_a_result_that_does_not_get_through_is_the_photo_s_fault(link, queue):
    await begin(queue)
    link.most_request_bytes = 100_000
    with pytest.raises(ImageTooLarge, match="3 attempts") as refused:
        await asyncio.wait_for(queue.finish(result_of("a", LARGE)), LONG_S)
    assert refused.value.extra["result_bytes"] > len(LARGE)
    assert await queue.fail("a", refused.value)
    assert (await queue.status("a")).failure.code == "image_too_large"


async def test_a_result_is_not_blamed_where_the_server_answers_nothing(link, queue):
    await begin(queue)
    link.most_request_bytes = 0
    with pytest.raises(DependencyUnavailable):
        await queue.finish(result_of("a", LARGE))
    link.most_request_bytes = None
    assert await queue.finish(result_of("a", LARGE))


async def test_a_failure_that_comes_after_the_end_is_not_its_outcome(queue):
    await begin(queue)
    while (await queue.status("a")).state is not JobState.SUCCEEDED:
        await queue.finish(result_of("a"))
    assert not await queue.fail("a", ImageTooLarge("it seemed not to get through"))
    assert (await queue.status("a")).state is JobState.SUCCEEDED


@pytest.mark.parametrize("more_bytes", [-1, 0, 1, 2 * _PART_BYTES + 1])
async def test_a_value_is_fetched_in_parts(link, more_bytes):
    connection = RedisConnection(link.url)
    name, value = f"{fresh_prefix()}:value", (bytes(range(256)) * (_PART_BYTES // 64))[: _PART_BYTES + more_bytes]
    await connection.put(name, value, ttl_ms=60_000)
    try:
        assert await connection.get_many([name, f"{name}:none"]) == [value, None]
    finally:
        await connection.close()
    assert link.most_reply_bytes < _PART_BYTES + 1000


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_connection_for_news_that_has_fallen_silent_is_replaced(tmp_path, version, protocol):
    server, channel = shared_server(version), fresh_prefix()
    client = Redis.from_url(server.url)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        link = await stack.enter_async_context(Link(server.url, str(tmp_path / "link.sock")))
        connection = RedisConnection(f"{link.url}?protocol={protocol}")
        stack.push_async_callback(connection.close)
        listener = Listener(connection.make_connection, ping_s=0.05)
        stack.push_async_callback(listener.close)
        async with listener.listen(channel, patience_s=LONG_S) as ear:
            connections = link.connections
            link.silence()
            assert await ear.wait(LONG_S) == [b""]
            assert link.connections > connections
            await client.publish(channel, b"news")
            assert await ear.wait(LONG_S) == [b"news"]
