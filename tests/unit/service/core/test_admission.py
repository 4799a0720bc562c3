import asyncio
import contextlib

import pytest

from service.core.admission import Admission
from service.core.errors import Draining, QueueFull


async def hold(admission, begun, release):
    async with admission.place():
        begun.set()
        await release.wait()


async def full(places, waiting, clock=lambda: 0.0):
    """An admission with every place and the whole line taken."""
    admission, release = Admission(places, waiting, clock=clock), asyncio.Event()
    tasks = []
    for _ in range(places + waiting):
        tasks.append(asyncio.create_task(hold(admission, asyncio.Event(), release)))
        await asyncio.sleep(0)
    return admission, release, tasks


async def test_line_then_refusal():
    admission, release, tasks = await full(2, 3)
    assert (admission.active, admission.waiting) == (2, 3)
    with pytest.raises(QueueFull) as caught:
        async with admission.place():
            pass
    assert 1 <= caught.value.extra["retry_after_s"] <= 60
    release.set()
    await asyncio.gather(*tasks)
    assert (admission.active, admission.waiting) == (0, 0)


async def test_without_a_line():
    admission, release, tasks = await full(1, 0)
    with pytest.raises(QueueFull):
        async with admission.place():
            pass
    release.set()
    await asyncio.gather(*tasks)
    async with admission.place():
        assert admission.active == 1


async def test_an_owner_leaves_half_of_the_places_and_of_the_line_to_others():
    admission = Admission(4, 2)

    async def taken(owner):
        async with admission.place(owner):
            pass

    async with contextlib.AsyncExitStack() as held:
        for _ in range(3):
            await held.enter_async_context(admission.place("anna"))
        with pytest.raises(QueueFull, match="of yours") as caught:
            await taken("anna")
        assert caught.value.extra["retry_after_s"] >= 1
        await taken("bert")
        assert admission.active == 3
        await held.enter_async_context(admission.place("bert"))
        with pytest.raises(QueueFull, match="of yours"):
            await taken("anna")
    for _ in range(4):
        await taken("anna")
    assert admission.active == 0


async def test_without_owners_all_places_are_everybodys_and_one_is_always_an_owners():
    admission = Admission(4, 0)
    async with contextlib.AsyncExitStack() as held:
        for _ in range(4):
            await held.enter_async_context(admission.place())
        assert admission.active == 4
    async with Admission(1, 0).place("anna"):
        pass


async def test_a_cancelled_waiter_frees_its_place_in_line():
    admission, release, tasks = await full(1, 1)
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    assert admission.waiting == 0
    release.set()
    await tasks[0]
    async with admission.place():
        assert admission.active == 1


async def test_an_error_inside_frees_the_place():
    admission = Admission(1, 0)
    with pytest.raises(KeyError):
        async with admission.place():
            raise KeyError
    assert admission.active == 0


async def test_closing_refuses_newcomers_and_lets_the_line_finish():
    admission, release, tasks = await full(1, 1)
    admission.close()
    with pytest.raises(Draining):
        async with admission.place():
            pass
    release.set()
    await asyncio.gather(*tasks)
    assert admission.closed


async def test_it_is_empty_when_the_last_one_has_left():
    admission, release, tasks = await full(1, 2)
    emptied = asyncio.create_task(admission.emptied())
    tasks.pop().cancel()
    await asyncio.sleep(0.01)
    assert not emptied.done()
    release.set()
    await emptied
    assert (admission.active, admission.waiting) == (0, 0)
    await asyncio.gather(*tasks)
    await admission.emptied()


async def test_patient_work_waits_where_others_are_refused():
    admission, release, tasks = await full(1, 0)
    admission.close()
    done = []

    async def patient():
        async with admission.patient_place():
            done.append(admission.active)

    waiting = asyncio.create_task(patient())
    await asyncio.sleep(0)
    assert (done, admission.waiting) == ([], 0)
    release.set()
    await asyncio.gather(waiting, *tasks)
    assert (done, admission.active) == ([1], 0)


async def test_retry_after_follows_how_long_photos_stay():
    now = iter(range(0, 100_000, 40))
    admission = Admission(1, 0, clock=lambda: next(now))
    for _ in range(30):
        async with admission.place():
            pass
    release = asyncio.Event()
    holder = asyncio.create_task(hold(admission, asyncio.Event(), release))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as caught:
        async with admission.place():
            pass
    assert caught.value.extra["retry_after_s"] == pytest.approx(40, abs=2)
    release.set()
    await holder


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


async def crowd(admission, count):
    """So many inside, and what lets the next of them go."""
    begun, releases, tasks = asyncio.Event(), [], []
    for _ in range(count):
        release = asyncio.Event()
        tasks.append(asyncio.create_task(hold(admission, begun, release)))
        await asyncio.sleep(0)
        releases.append((release, tasks[-1]))
    return releases


async def let_go(releases, clock, every_s):
    for release, task in releases:
        clock.now_s += every_s
        release.set()
        await task


async def refused(admission):
    try:
        async with admission.place():
            return None
    except QueueFull as full:
        return full.extra["retry_after_s"]


async def test_who_would_probably_take_too_long_is_refused():
    clock = Clock()
    admission = Admission(16, 16, objective_s=60, clock=clock)
    inside = await crowd(admission, 5)
    for _ in range(40):  # 3 s each: five of them for 15 s, and 60 s for the slowest
        await let_go([inside.pop(0)], clock, 3.0)
        inside += await crowd(admission, 1)
    assert await refused(admission) == 3  # the sixth: 6 * 3 s, and four times that for the slowest
    await let_go(inside[:1], clock, 3.0)
    inside += await crowd(admission, 1)
    assert admission.active == 5
    await let_go(inside[1:], clock, 3.0)


async def test_a_few_are_let_in_however_slow_it_goes_and_a_better_pace_is_learnt():
    clock = Clock()
    admission = Admission(16, 16, objective_s=60, clock=clock)
    await let_go(await crowd(admission, 8), clock, 100.0)
    for _ in range(200):
        inside = await crowd(admission, 4)
        await let_go(inside, clock, 0.1)
    inside = await crowd(admission, 12)
    assert admission.active == 12
    await let_go(inside, clock, 0.1)


async def test_the_first_of_a_crowd_that_is_served_side_by_side_tells_no_slow_pace():
    clock = Clock()
    admission = Admission(16, 16, objective_s=60, clock=clock)
    inside = await crowd(admission, 8)
    await let_go(inside[:1], clock, 8.0)  # the other seven are nearly done
    assert await refused(admission) is None
    await let_go(inside[1:], clock, 0.0)
    inside = await crowd(admission, 15)
    assert admission.active == 15
    assert await refused(admission) == 1  # 16 photos of a second each, and four times that for the slowest
    await let_go(inside, clock, 1.0)


async def test_slow_photos_without_company_tell_nothing_of_a_crowd():
    clock = Clock()
    admission = Admission(16, 16, objective_s=60, clock=clock)
    for _ in range(5):
        await let_go(await crowd(admission, 1), clock, 20.0)
    inside = await crowd(admission, 32)
    assert (admission.active, admission.waiting) == (16, 16)
    await let_go(inside, clock, 1.0)


async def test_patient_work_is_not_ahead_of_anybody():
    clock = Clock()
    admission = Admission(16, 16, objective_s=60, clock=clock)
    await let_go(await crowd(admission, 8), clock, 3.0)
    async with contextlib.AsyncExitStack() as patient:
        for _ in range(10):
            await patient.enter_async_context(admission.patient_place())
        assert await refused(admission) is None
