"""Whether workers are alive, as a real Redis knows it."""

import asyncio

import pytest

from service.brokers.redis_presence import Presence
from tests.redis_servers import VERSIONS, RedisServer, fresh_prefix, require_binary, shared_server

LEASE_S = 1.5
LONG_S = 30.0


@pytest.fixture(params=VERSIONS)
def server(request):
    return shared_server(request.param)


async def always():
    return True


async def until(presence, expected):
    for _ in range(round(LONG_S / LEASE_S * 10)):
        if await presence.anybody() is expected:
            return
        await asyncio.sleep(LEASE_S / 10)
    pytest.fail(f"it is never {expected}")


async def test_one_of_several_is_enough_and_silence_is_noticed(server):
    prefix = fresh_prefix()
    looking, first, second = (Presence(server.url, prefix=prefix, lease_s=LEASE_S) for _ in range(3))
    assert await looking.anybody() is False
    stops = [asyncio.Event() for _ in range(2)]
    announcing = [
        asyncio.create_task(presence.announce(stop, can_work=always))
        for presence, stop in zip((first, second), stops, strict=True)
    ]
    await until(looking, True)
    stops[0].set()
    await announcing[0]
    for _ in range(8):
        await asyncio.sleep(LEASE_S / 4)
        assert await looking.anybody()
    stops[1].set()
    await announcing[1]
    await until(looking, False)
    for presence in (looking, first, second):
        await presence.close()


async def test_queues_of_other_bundles_are_not_meant(server):
    here, elsewhere = (Presence(server.url, prefix=fresh_prefix(), lease_s=LEASE_S) for _ in range(2))
    stop = asyncio.Event()
    announcing = asyncio.create_task(elsewhere.announce(stop, can_work=always))
    await until(elsewhere, True)
    assert await here.anybody() is False
    stop.set()
    await announcing
    for presence in (here, elsewhere):
        await presence.close()


async def test_a_server_that_is_away_tells_nothing_and_is_announced_to_when_it_is_back(tmp_path_factory):
    server = RedisServer(require_binary(VERSIONS[-1]), tmp_path_factory.mktemp("r"))
    presence, stop = Presence(server.url, prefix=fresh_prefix(), lease_s=LEASE_S), asyncio.Event()
    announcing = asyncio.create_task(presence.announce(stop, can_work=always))
    assert await presence.anybody() is None
    server.start()
    try:
        await until(presence, True)
        server.pause()
        assert await presence.anybody() is None
        server.resume()
        stop.set()
        await announcing
        await presence.close()
    finally:
        server.kill()


async def test_a_worker_counts_while_the_memory_is_full(tmp_path_factory):
    server = RedisServer(require_binary(VERSIONS[-1]), tmp_path_factory.mktemp("r"), "--maxmemory", "1")
    server.start()
    presence, stop = Presence(server.url, prefix=fresh_prefix(), lease_s=LEASE_S), asyncio.Event()
    announcing = asyncio.create_task(presence.announce(stop, can_work=always))
    try:
        await until(presence, True)
    finally:
        stop.set()
        await announcing
        await presence.close()
        server.kill()


async def test_a_worker_that_cannot_work_does_not_count(server):
    presence, stop, able = Presence(server.url, prefix=fresh_prefix(), lease_s=LEASE_S), asyncio.Event(), [True]

    async def can_work():
        return able[-1]

    announcing = asyncio.create_task(presence.announce(stop, can_work=can_work))
    for can in (True, False, True):
        able.append(can)
        await until(presence, can)
    stop.set()
    await announcing
    await presence.close()
