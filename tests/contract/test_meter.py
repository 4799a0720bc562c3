"""What every meter of rates and quotas promises: the one in this process, and the one in Redis."""

import asyncio
import contextlib

import pytest

from service.access.caller import Quota, Rate
from service.access.meter import Meter
from service.brokers.memory_meter import MemoryMeter
from service.brokers.redis_meter import RedisMeter
from service.core.errors import DependencyUnavailable
from tests.redis_servers import durable_server, fresh_prefix, shared_server

HOURLY = Rate(per_s=1 / 3600, burst=3)
DAILY = Quota(face_px=100, window_s=86400.0)
LONG_S = 60.0


@contextlib.asynccontextmanager
async def memory():
    yield MemoryMeter()


@contextlib.asynccontextmanager
async def on_redis(version):
    meter = RedisMeter(shared_server(version).url, prefix=fresh_prefix())
    yield meter
    await meter.close()


def redis_6_2():
    return on_redis("6.2")


def redis_7():
    return on_redis("7")


@pytest.fixture(params=[memory, redis_6_2, redis_7], ids=lambda factory: factory.__name__)
async def meter(request):
    async with request.param() as made:
        yield made


async def test_it_is_a_meter(meter):
    assert isinstance(meter, Meter)


async def test_a_burst_passes_and_the_next_request_waits(meter):
    passages = [await meter.knock("shop", HOURLY) for _ in range(4)]
    assert [passage.wait_s == 0 for passage in passages] == [True, True, True, False]
    assert [passage.left for passage in passages] == [2, 1, 0, 0]
    assert 3500 < passages[3].wait_s <= 3600


async def test_a_refused_request_is_not_counted(meter):
    for _ in range(20):
        last = await meter.knock("shop", HOURLY)
    assert last.wait_s <= 3600


async def test_who_waits_as_long_as_told_passes(meter):
    rate, passed = Rate(per_s=50, burst=1), 0
    async with asyncio.timeout(LONG_S):
        while passed < 4:
            passage = await meter.knock("shop", rate)
            passed += passage.wait_s == 0
            await asyncio.sleep(passage.wait_s)


async def test_many_requests_at_once_are_counted_one_by_one(meter):
    passages = await asyncio.gather(*(meter.knock("shop", Rate(1 / 3600, 10)) for _ in range(40)))
    assert sum(passage.wait_s == 0 for passage in passages) == 10


async def test_accounts_do_not_use_up_each_other(meter):
    for _ in range(3):
        await meter.knock("shop", HOURLY)
    assert (await meter.knock("shop2", HOURLY)).wait_s == 0
    await meter.spend("shop", DAILY, 100)
    assert (await meter.spend("shop2", DAILY, 1)).spent_face_px == 1


async def test_photos_are_charged_until_the_quota_is_spent(meter):
    spendings = [await meter.spend("shop", DAILY, 60) for _ in range(3)]
    assert [spending.accepted for spending in spendings] == [True, True, False]
    assert [spending.spent_face_px for spending in spendings] == [60, 120, 120]
    assert all(86000 < spending.renews_s < 86401 for spending in spendings)


async def test_many_photos_at_once_do_not_all_slip_through(meter):
    spendings = await asyncio.gather(*(meter.spend("shop", DAILY, 10) for _ in range(40)))
    assert sum(spending.accepted for spending in spendings) == 10


async def test_the_quota_renews(meter):
    brief = Quota(face_px=10, window_s=0.05)
    while (refused := await meter.spend("shop", brief, 10)).accepted:
        pass
    await asyncio.sleep(refused.renews_s + 0.01)
    assert (await meter.spend("shop", brief, 10)).spent_face_px == 10


async def test_the_quota_renews_a_window_after_its_first_charge(meter):
    """Later charges and corrections do not put it off."""
    brief = Quota(face_px=20, window_s=2)
    first = await meter.spend("shop", brief, 10)
    await asyncio.sleep(0.25)
    second = await meter.spend("shop", brief, 10)
    await meter.correct("shop", brief.window_s, -5)
    assert (first.accepted, second.accepted) == (True, True)
    assert second.renews_s < first.renews_s - 0.2
    await asyncio.sleep(second.renews_s + 0.01)
    assert (await meter.spend("shop", brief, 20)).spent_face_px == 20


async def test_a_photo_that_is_sent_again_is_charged_once_even_when_nothing_is_left(meter):
    first = await meter.spend("shop", DAILY, 100, "key")
    again = await meter.spend("shop", DAILY, 100, "key")
    assert (first.accepted, first.is_new) == (True, True)
    assert (again.accepted, again.is_new, again.spent_face_px) == (True, False, 100)
    assert not (await meter.spend("shop", DAILY, 1, "other key")).accepted


async def test_a_mark_is_its_account_s_alone(meter):
    await meter.spend("shop", DAILY, 10, "key")
    assert (await meter.spend("shop2", DAILY, 10, "key")).is_new


async def test_a_correction_is_made_once(meter):
    await meter.spend("shop", DAILY, 10)
    for _ in range(3):
        await meter.correct("shop", 86400, 20, once="job")
    await meter.correct("shop", 86400, 5, once="other job")
    assert (await meter.spend("shop", DAILY, 1)).spent_face_px == 36


async def test_nothing_is_spent_less_than_nothing(meter):
    await meter.correct("shop", 86400, -50)
    await meter.spend("shop", DAILY, 10)
    await meter.correct("shop", 86400, -50)
    assert (await meter.spend("shop", DAILY, 10)).spent_face_px == 10


async def test_a_photo_that_was_taken_back_is_charged_when_it_is_sent_again(meter):
    await meter.spend("shop", DAILY, 10, "key")
    await meter.correct("shop", 86400, -10, forget="key")
    again = await meter.spend("shop", DAILY, 10, "key")
    assert (again.is_new, again.spent_face_px) == (True, 10)


async def test_a_correction_after_the_window_s_end_begins_a_new_one(meter):
    await meter.correct("shop", 86400, 100)
    refused = await meter.spend("shop", DAILY, 1)
    assert not refused.accepted
    assert refused.renews_s <= 86400


async def test_gateways_on_one_redis_count_together():
    server, prefix = shared_server("7"), fresh_prefix()
    meters = [RedisMeter(server.url, prefix=prefix) for _ in range(2)]
    passed = [(await meters[number % 2].knock("shop", HOURLY)).wait_s == 0 for number in range(4)]
    spent = [(await meters[number % 2].spend("shop", DAILY, 50)).accepted for number in range(3)]
    for meter in meters:
        await meter.close()
    assert passed == [True, True, True, False]
    assert spent == [True, True, False]


async def test_everything_it_keeps_in_redis_goes_by_itself():
    server, prefix = shared_server("7"), fresh_prefix()
    meter = RedisMeter(server.url, prefix=prefix)
    await meter.knock("shop", HOURLY)
    await meter.spend("shop", DAILY, 50, "key")
    await meter.correct("shop", 86400, 50, once="job")
    await meter.close()
    names = server.tell("KEYS", f"{prefix}*").split()
    assert len(names) == 4
    assert all(int(server.tell("PTTL", name)) > 0 for name in names)


async def test_without_its_server_it_says_so(tmp_path):
    server = durable_server(tmp_path)
    meter = RedisMeter(server.url, prefix=fresh_prefix())
    with pytest.raises(DependencyUnavailable):
        await meter.knock("shop", HOURLY)
    with pytest.raises(DependencyUnavailable):
        await meter.spend("shop", DAILY, 1)
    await meter.close()
