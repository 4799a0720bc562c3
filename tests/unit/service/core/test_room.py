import asyncio
import contextlib

import pytest

from service.core.room import Room


class Work:
    """Holds so much of a room until it is told to end."""

    def __init__(self, room, size_bytes):
        self._end = asyncio.Event()
        self.hold = None
        self.task = asyncio.create_task(self._run(room, size_bytes))

    @property
    def is_in(self):
        return self.hold is not None and not self.task.done()

    async def end(self):
        self._end.set()
        await self.task

    async def withdraw(self):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def _run(self, room, size_bytes):
        async with room.held(size_bytes) as self.hold:
            await self._end.wait()


async def at_work(room, *sizes_bytes):
    works = [Work(room, size_bytes) for size_bytes in sizes_bytes]
    await settled()
    return works


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


def inside(works):
    return [work.is_in for work in works]


async def test_what_does_not_fit_in_waits_in_the_order_of_its_coming():
    works = await at_work(Room(10), 6, 5, 1, 4)
    assert inside(works) == [True, False, False, False]
    await works[0].end()
    await settled()
    assert inside(works) == [False, True, True, True]


async def test_what_needs_more_than_there_is_is_alone():
    room = Room(10)
    works = await at_work(room, 3, 99, 1)
    assert inside(works) == [True, False, False]
    await works[0].end()
    await settled()
    assert inside(works) == [False, True, False]
    await works[1].end()
    await settled()
    assert inside(works) == [False, False, True]


async def test_who_needs_less_than_he_asked_for_lets_others_in():
    works = await at_work(Room(10), 10, 6, 4)
    works[0].hold(4)
    await settled()
    assert inside(works) == [True, True, False]
    await works[0].end()
    await settled()
    assert inside(works) == [False, True, True]


async def test_who_is_withdrawn_stands_in_nobodys_way():
    works = await at_work(Room(10), 6, 8, 4)
    await works[1].withdraw()
    await settled()
    assert inside(works) == [True, False, True]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_who_is_withdrawn_when_his_turn_comes_leaves_no_hole(order):
    room = Room(10)
    works = await at_work(room, 10, 10)
    steps = [works[0].task.cancel, works[1].task.cancel]
    for step in order:
        steps[step]()
        if step == 0:
            await asyncio.sleep(0)  # he lets go in this turn of the loop, and the other is let in, but has not run
    await settled()
    assert (await at_work(room, 10))[0].is_in


async def test_what_fails_gives_back():
    room = Room(10)
    with pytest.raises(LookupError):
        async with room.held(10):
            raise LookupError
    assert (await at_work(room, 10))[0].is_in
