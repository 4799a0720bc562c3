"""A replica that takes the place of its Redis."""

import asyncio
import contextlib
import socket

import pytest

from service.brokers.redis_streams import RedisBroker
from service.core.metrics import Metrics
from tests.face_queues import photo, restored
from tests.redis_servers import VERSIONS, RedisServer, fresh_prefix, require_binary

LEASE_S = 2.0
LONG_S = 30.0


class Pair:
    """A server, its replica, and an address that leads to the one that is primary now."""

    def __init__(self, version, folders):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self._sockets = [folder / "redis.sock" for folder in folders]
        at_once = ("--repl-diskless-sync-delay", "0")
        self.primary = RedisServer(require_binary(version), folders[0], "--port", port, *at_once)
        self.replica = RedisServer(require_binary(version), folders[1], "--replicaof", "127.0.0.1", port)
        self._here = folders[0] / "here.sock"
        self._here.symlink_to(self._sockets[0])
        self.url = f"unix://{self._here}"

    def start(self):
        self.primary.start()
        self.replica.start()

    async def until(self, reached):
        for _ in range(round(LONG_S * 100)):
            if reached():
                return
            await asyncio.sleep(0.01)
        pytest.fail("it does not come to that")

    async def until_copied(self):
        """Wait until the replica has all that was written so far."""
        await self.until(lambda: self.primary.tell("WAIT", "1", "100") == "1" and self._offset() == self._offset(True))

    def fail_over(self):
        self.primary.kill()
        assert self.replica.tell("REPLICAOF", "NO", "ONE") == "OK"
        self._here.unlink()
        self._here.symlink_to(self._sockets[1])

    def uptime_s(self):
        return int(self._told(self.replica, "uptime_in_seconds"))

    def _offset(self, primary=False):
        return self._told(self.primary if primary else self.replica, "master_repl_offset")

    @staticmethod
    def _told(server, name):
        lines = server.tell("INFO").splitlines()
        return next((line.partition(":")[2] for line in lines if line.startswith(f"{name}:")), None)


@pytest.fixture(params=VERSIONS)
def pair(request, tmp_path_factory):
    pair = Pair(request.param, [tmp_path_factory.mktemp("r") for _ in range(2)])
    pair.start()
    yield pair
    pair.primary.kill()
    pair.replica.kill()


@pytest.fixture
async def make_broker(pair):
    async with contextlib.AsyncExitStack() as stack:
        prefix = fresh_prefix()

        def make():
            broker = RedisBroker(pair.url, max_queued_faces=64, metrics=Metrics(), prefix=prefix, lease_s=LEASE_S)
            stack.push_async_callback(broker.close)
            return broker

        yield make


async def test_silence_during_a_failover_is_not_held_against_a_worker(pair, make_broker):
    gateway, worker, lost = make_broker(), make_broker(), make_broker()
    await gateway.submit(photo("a", 2))
    (job,) = await worker.take(1, LONG_S)
    (other,) = await lost.take(1, LONG_S)
    await pair.until_copied()
    await pair.until(lambda: pair.uptime_s() > LEASE_S)  # all that is known of the leases there is older than one
    pair.fail_over()
    assert all([await broker.ready() for broker in (gateway, worker)])
    assert await gateway.take(2, 0) == []
    assert await worker.beat({job.key: 1}) == set()
    async with asyncio.timeout(LONG_S):
        while not (found := await gateway.take(2, LEASE_S / 4)):  # but what stays silent is given to others
            assert await worker.beat({job.key: 1}) == set()
    assert [face.key for face in found] == [other.key]
    for face in (job, other):
        await (worker if face is job else gateway).complete(restored(face))
    assert len(await gateway.results("a", LONG_S)) == 2


async def test_work_whose_end_did_not_reach_the_replica_is_done_again(pair, make_broker):
    gateway, worker = make_broker(), make_broker()
    await gateway.submit(photo("a", 1))
    (job,) = await worker.take(1, LONG_S)
    await pair.until_copied()
    pair.replica.tell("REPLICAOF", "NO", "ONE")
    await worker.complete(restored(job))
    pair.fail_over()
    assert all([await broker.ready() for broker in (gateway, worker)])
    waiting = asyncio.create_task(gateway.results("a", LONG_S))
    async with asyncio.timeout(LONG_S):
        while not (found := await worker.take(1, LEASE_S / 4)):
            pass
    assert found[0].key == job.key
    await worker.complete(restored(found[0]))
    assert len(await waiting) == 1
