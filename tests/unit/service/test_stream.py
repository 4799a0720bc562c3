"""How much a stream holds, whatever comes and goes."""

import asyncio

import pytest

from service.core.errors import QueueFull
from service.stream import StreamRoom


def room(**changes):
    return StreamRoom(**{"at_once": 2, "max_photos": 8, "max_bytes": 100, **changes})


async def is_waiting(coroutine):
    """A task that does not get on by itself."""
    task = asyncio.create_task(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def take_turn(window):
    async with window.turn():
        pass


@pytest.mark.parametrize("wrong", [{"at_once": 0}, {"max_photos": 0}, {"max_bytes": 0}])
def test_a_room_without_room_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        room(**wrong)


async def test_a_window_is_full_and_opens_again():
    with room(max_photos=2).window() as window:
        await window.enter()
        await window.enter()
        third = await is_waiting(window.enter())
        window.leave(0)
        await third
        assert window.photos == 2


async def test_bytes_fill_it_too_but_the_first_photo_always_enters():
    with room().window() as window:
        window.receive(500)
        await window.enter()
        second = await is_waiting(window.enter())
        window.finish(500, 99)
        await second


async def test_results_that_nobody_reads_hold_up_those_that_wait_to_begin():
    with room().window() as window:
        await window.enter()
        window.finish(0, 100)

        waiting = await is_waiting(take_turn(window))
        window.leave(100)
        await waiting


async def test_a_caller_may_want_less():
    with room().window() as window:
        window.narrow(3)
        assert window.size == 3
        window.narrow(99)
        assert window.size == 8
        with pytest.raises(ValueError, match="at least 1"):
            window.narrow(0)


async def test_shares_shrink_with_each_stream_and_grow_when_one_goes():
    common = room()
    with common.window() as first:
        for _ in range(4):
            await first.enter()
        with common.window() as second:
            assert (first.size, second.size, common.bytes_each) == (4, 4, 50)
            fifth = await is_waiting(first.enter())
        await fifth
        assert first.photos == 5


async def test_as_many_streams_as_photos_have_one_each_and_a_further_one_is_refused():
    common = room(max_photos=2)
    with common.window() as first, common.window() as second:
        await asyncio.wait_for(first.enter(), 1)
        await asyncio.wait_for(second.enter(), 1)
        with pytest.raises(QueueFull), common.window():
            pass
    with common.window() as later:
        assert later.size == 2


async def test_turns_are_taken_by_all_streams_together():
    common = room(at_once=1)
    with common.window() as first, common.window() as second:
        async with first.turn():
            waiting = await is_waiting(take_turn(second))
        await waiting


async def test_no_stream_has_more_than_its_share_of_the_line():
    common = room(at_once=4)
    with common.window() as first:
        async with first.turn(), first.turn(), first.turn(), first.turn():
            pass
        with common.window():
            async with first.turn(), first.turn():
                third = await is_waiting(take_turn(first))
                assert not common.turns.locked()
            await third
