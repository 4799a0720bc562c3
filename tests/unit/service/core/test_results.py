import asyncio

import pytest

from service.core.errors import NotFound
from service.core.results import ResultStore
from service.core.types import OutputFormat, Report, Restoration


def restoration(job_id, size=100_000):
    report = Report(job_id, "m@1", 8, 8, 0, 1, 0.5, (), {"total": 1.0}, OutputFormat.PNG)
    return Restoration(b"x" * size, report)


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


async def test_put_get_delete():
    store = ResultStore(ttl_s=60, max_bytes=10**6, clock=Clock())
    kept = await store.put(restoration("a"))
    assert kept.expires_at_s == 1060
    assert (await store.get("a")) is kept
    await store.delete("a")
    assert store.held_bytes == 0
    for gone in (store.get("a"), store.delete("a"), store.get("never")):
        with pytest.raises(NotFound):
            await gone


async def test_results_expire():
    clock = Clock()
    store = ResultStore(ttl_s=60, max_bytes=10**6, clock=clock)
    await store.put(restoration("a"))
    clock.now_s += 61
    with pytest.raises(NotFound):
        await store.get("a")
    assert store.held_bytes == 0


async def test_expiry_needs_no_visitor():
    store = ResultStore(ttl_s=0.01, max_bytes=10**6)
    await store.put(restoration("a"))
    await store.put(restoration("b"))
    for _ in range(1000):
        if store.held_bytes == 0:
            return
        await asyncio.sleep(0.005)
    pytest.fail("expired results are still held")


async def test_the_oldest_make_room():
    store = ResultStore(ttl_s=60, max_bytes=250_000)
    for job_id in "abc":
        await store.put(restoration(job_id))
    with pytest.raises(NotFound):
        await store.get("a")
    assert await store.get("b")
    assert await store.get("c")
    assert store.held_bytes <= 250_000


async def test_above_the_budget_is_not_kept_and_pushes_nobody_out():
    store = ResultStore(ttl_s=60, max_bytes=250_000)
    await store.put(restoration("a"))
    assert await store.put(restoration("b", 300_000)) is None
    assert await store.get("a")


async def test_no_budget_keeps_nothing():
    store = ResultStore(ttl_s=60, max_bytes=0)
    assert await store.put(restoration("a", 1)) is None


async def test_the_same_job_again_counts_once():
    store = ResultStore(ttl_s=60, max_bytes=10**6)
    await store.put(restoration("a"))
    once = store.held_bytes
    await store.put(restoration("a"))
    assert store.held_bytes == once
