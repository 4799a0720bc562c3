"""The memory of Redis for results, and what one owner of several may hold of it."""

import asyncio

import pytest

from service.brokers.redis_jobs import RedisJobQueue, SharedJobLimits
from service.core.errors import NoFaceFound, NotFound, QueueFull
from service.core.metrics import Metrics
from service.core.types import Upload
from tests.job_queues import photo, result_of
from tests.redis_servers import VERSIONS, RedisServer, fresh_prefix, require_binary

RESULT = bytes(1_000_000)


@pytest.fixture(params=VERSIONS)
def server(request, tmp_path_factory):
    """A server of the test's own, whose memory the test limits."""
    server = RedisServer(require_binary(request.param), tmp_path_factory.mktemp("r"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def prefix():
    return fresh_prefix()


@pytest.fixture
async def make_queue(server, prefix):
    made = []

    def make(**limits):
        given = {"max_queued_photos": 64, "result_ttl_s": 3600.0, **limits}
        made.append(RedisJobQueue(server.url, SharedJobLimits(**given), metrics=Metrics(), prefix=prefix))
        return made[-1]

    yield make
    for queue in made:
        await queue.close()


@pytest.fixture
def queue(make_queue):
    return make_queue()


def memory(server, name):
    lines = server.tell("INFO", "memory").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).partition(":")[2])


def take_up(server, share):
    """Limit the memory so that this share of it is taken, by more than what connections hold for a while."""
    server.tell("CLIENT", "KILL", "TYPE", "normal")
    server.tell("CONFIG", "SET", "maxmemory", str(round(memory(server, "used_memory") / share)))


async def restore(queue, *job_ids, owner, data=RESULT, **fields):
    for job_id in job_ids:
        await queue.admit(photo(job_id, owner=owner, **fields))
        assert (await queue.take(0)).job_id == job_id
        await queue.finish(result_of(job_id, data))


async def admit_many(queue, count):
    for number in range(count):
        assert (await queue.admit(photo(f"n{number}", owner="shop"))).is_new


async def left(queue, job_ids):
    found = ""
    for job_id in job_ids:
        try:
            await queue.result(job_id)
        except NotFound:
            continue
        found += job_id
    return found


async def test_who_holds_most_makes_room_for_the_jobs_of_others(server, queue):
    await restore(queue, *"abcdefgh", owner="flood")
    await restore(queue, "m", owner="shop")
    take_up(server, 0.85)
    with pytest.raises(QueueFull, match="memory"):
        await queue.admit(photo("i", owner="flood"))
    assert await left(queue, "abcdefgh") == "abcdefgh"
    assert (await queue.admit(photo("n", owner="shop"))).is_new
    assert await left(queue, "m") == "m"
    assert await left(queue, "abcdefgh") in ("bcdefgh", "cdefgh")
    assert (await queue.admit(photo("o", owner="newcomer"))).is_new


async def test_nobody_s_results_go_for_a_guess(server, queue):
    """What jobs will bring is guessed from results of late: they are refused by it, and nothing else."""
    await restore(queue, *"abcdefgh", owner="flood")
    take_up(server, 0.6)
    assert (await queue.admit(photo("i", owner="shop"))).is_new
    with pytest.raises(QueueFull, match="memory"):
        await admit_many(queue, 30)
    assert await left(queue, "abcdefgh") == "abcdefgh"
    assert (await queue.admit(photo("o", owner="newcomer"))).is_new


async def test_no_more_results_are_expected_than_are_kept_at_once(server, make_queue):
    queue = make_queue(result_ttl_s=0.2)
    await restore(queue, *"abcdefgh", owner="")
    await asyncio.sleep(0.3)  # they are gone
    server.tell("CONFIG", "SET", "maxmemory", "8000000")
    await admit_many(queue, 30)


async def test_who_holds_most_makes_room_for_what_others_have_kept(server, queue):
    for job_id in "abcdefgh":
        assert await queue.keep(result_of(job_id, RESULT), "flood") is not None
    await restore(queue, *"xyz", owner="rich")
    take_up(server, 0.56)
    assert await queue.keep(result_of("i", RESULT), "flood") is None
    assert await queue.keep(result_of("m", RESULT), "shop") is not None
    kept = await left(queue, "abcdefgh")
    assert kept
    assert "abcdefgh".endswith(kept)
    assert len(kept) < 8
    assert await left(queue, "mxyz") == "mxyz"  # a copy of what was sent takes no job's only result


async def test_photos_of_one_owner_leave_memory_for_those_of_others(server, queue):
    for job_id in "abcd":
        await queue.admit(photo(job_id, owner="flood", upload=Upload(RESULT)))
    server.tell("CONFIG", "SET", "maxmemory", "12000000")
    with pytest.raises(QueueFull, match="photos of yours"):
        await queue.admit(photo("e", owner="flood", upload=Upload(RESULT)))
    assert (await queue.admit(photo("m", owner="shop", upload=Upload(RESULT)))).is_new
    await queue.cancel("b")
    assert (await queue.admit(photo("f", owner="flood", upload=Upload(RESULT)))).is_new
    await queue.take(0)
    await queue.finish(result_of("a"))
    assert (await queue.admit(photo("g", owner="flood", upload=Upload(RESULT)))).is_new


async def test_photos_that_a_gateway_of_an_earlier_release_has_ended_are_held_no_more(server, queue, prefix):
    await restore(queue, *"abc", owner="shop", data=b"small")
    await queue.delete("c")
    await queue.admit(photo("d", owner="shop"))
    for job_id in "abcd":  # that release counts none, and takes none out of the count
        server.tell("ZADD", f"{prefix}:photos:held:photos:shop", "9000000000000", f"20000000 {job_id}")
    server.tell("ZADD", f"{prefix}:photos:holders:photos", "80000000", "shop")
    server.tell("CONFIG", "SET", "maxmemory", "100000000")
    assert (await queue.admit(photo("e", owner="shop"))).is_new
    left = server.tell("ZRANGE", f"{prefix}:photos:held:photos:shop", "0", "-1").splitlines()
    assert {entry.split()[1] for entry in left} == {"d", "e"}
    assert float(server.tell("ZSCORE", f"{prefix}:photos:holders:photos", "shop")) < 21_000_000


async def test_nothing_goes_where_that_would_not_make_room(server, queue):
    await restore(queue, "a", owner="flood")
    server.tell("SET", "something else", "." * 50_000)
    for number in range(40):
        server.tell("SETRANGE", f"other {number}", "1000000", ".")
    take_up(server, 0.9)
    with pytest.raises(QueueFull, match="memory"):
        await queue.admit(photo("m", owner="shop"))
    assert await left(queue, "a") == "a"


async def test_without_owners_nobody_makes_room(server, queue):
    await restore(queue, *"abcd", owner="")
    take_up(server, 0.85)
    with pytest.raises(QueueFull, match="memory"):
        await queue.admit(photo("m"))
    assert await left(queue, "abcd") == "abcd"


async def test_what_is_held_is_counted_and_what_is_forgotten_is_not(server, make_queue, prefix):
    queue = make_queue()
    await restore(queue, "a", owner="shop")
    await restore(queue, "b", owner="shop", keep_upload=True)
    for _ in range(2):  # as if the answer had been lost
        await queue.keep(result_of("c", RESULT), "shop")
    await queue.admit(photo("d", owner="shop", keep_upload=True))
    await queue.take(0)
    await queue.fail("d", NoFaceFound("none seen"))
    await queue.admit(photo("e", owner="shop"))
    await queue.cancel("e")

    def told(pool):
        return float(server.tell("ZSCORE", f"{prefix}:photos:holders:{pool}", "shop") or 0)

    entries = server.tell("ZRANGE", f"{prefix}:photos:held:jobs:shop", "0", "-1").splitlines()
    assert sorted(entry.split()[1] for entry in entries) == ["a", "b", "d"]
    assert told("jobs") == sum(int(entry.split()[0]) for entry in entries) > 2 * len(RESULT)
    assert len(RESULT) < told("kept") < 2 * len(RESULT)
    for key in ("holders:jobs", "holders:kept", "held:jobs:shop", "held:kept:shop"):
        assert 0 < int(server.tell("TTL", f"{prefix}:photos:{key}")) <= 3600
    for job_id in "abcde":
        await queue.delete(job_id)
    assert told("jobs") == told("kept") == told("photos") == 0


async def test_what_has_expired_counts_for_nobody(server, make_queue, prefix):
    lasting, passing = make_queue(), make_queue(result_ttl_s=0.05)
    await restore(lasting, "a", "b", owner="shop")
    await restore(passing, *"cdefg", owner="gone")
    while any(server.tell("EXISTS", f"{prefix}:photos:result:{job_id}:0") == "1" for job_id in "cdefg"):
        pass  # a look at what has expired frees its memory
    server.tell("ZADD", f"{prefix}:photos:holders:jobs", "9000000", "gone")  # as if it had lasted as long as theirs
    take_up(server, 0.9)
    assert (await lasting.admit(photo("m", owner="newcomer"))).is_new
    assert server.tell("ZSCORE", f"{prefix}:photos:holders:jobs", "gone") == ""
    assert await left(lasting, "ab") in ("", "b")
