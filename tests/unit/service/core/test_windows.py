"""How much a stream holds, whatever comes and goes."""

import asyncio
import contextlib

import pytest

from service.bench import virtual_time
from service.core.errors import QueueFull
from service.core.windows import StreamRoom


def room(**changes):
    return StreamRoom(**{"at_once": 2, "max_photos": 8, "max_bytes": 100, **changes})


async def is_waiting(coroutine):
    """A task that does not get on by itself."""
    return await goes_on_waiting(asyncio.create_task(coroutine))


async def goes_on_waiting(task):
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def take_turn(window):
    async with window.turn():
        pass


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


async def test_results_of_all_streams_together_have_their_bytes():
    common = room(at_once=4)
    with contextlib.ExitStack() as stack:
        windows = [stack.enter_context(common.window()) for _ in range(4)]
        for window in windows:
            await window.enter()
        async with windows[0].turn(), windows[1].turn():
            waiting = [await is_waiting(take_turn(window)) for window in windows[:2]]
            windows[0].finish(0, 24)
            windows[1].finish(0, 76)
        waiting.append(await is_waiting(take_turn(windows[2])))
        await goes_on_waiting(waiting[0])
        windows[1].leave(76)
        await asyncio.wait_for(asyncio.gather(*waiting), 1)


async def test_who_stood_in_line_while_results_became_too_many_waits_for_their_readers():
    common = room(at_once=1)
    with common.window() as first, common.window() as second:
        await first.enter()
        async with first.turn():
            waiting = await is_waiting(take_turn(second))
            first.finish(0, 100)
        await goes_on_waiting(waiting)
        first.leave(100)
        await asyncio.wait_for(waiting, 1)
        assert not common.turns.locked()


async def test_a_turn_comes_to_each_of_more_streams_than_there_are_turns():
    common = room(at_once=1)
    with common.window() as first, common.window() as second:
        for window in (first, second):
            await window.enter()
        for window in (first, second):
            await asyncio.wait_for(take_turn(window), 1)


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


async def test_shares_shrink_with_each_stream_that_has_a_photo_and_grow_when_it_has_none():
    common = room()
    with common.window() as first, common.window() as second, common.window() as unused:
        for _ in range(4):
            await first.enter()
        assert (first.size, second.size, common.share(first, 100)) == (8, 4, 100)
        await second.enter()
        assert (first.size, second.size, common.share(first, 100)) == (4, 4, 50)
        assert unused.size == 2
        fifth = await is_waiting(first.enter())
        second.leave(0)
        await fifth
        assert first.photos == 5


async def test_shares_grow_when_a_stream_goes():
    common = room(max_photos=2)
    with common.window() as first:
        await first.enter()
        with common.window() as second:
            await second.enter()
            waiting = await is_waiting(first.enter())
        await asyncio.wait_for(waiting, 1)


async def test_an_owner_has_half_of_the_streams():
    common = room(max_photos=4)
    with common.window("anna"), common.window("anna"):
        with pytest.raises(QueueFull, match="yours"):
            common.check("anna")
        with common.window("bert"), common.window(), pytest.raises(QueueFull, match="are open"):
            common.check()
    with room(max_photos=1).window("anna"):
        pass
    with common.window("anna"):
        pass


def test_a_stream_is_unused_from_its_last_photo_on():
    async def used():
        clock = asyncio.get_running_loop().time
        with room().window() as window:
            waiting = asyncio.create_task(window.unused(60))
            await asyncio.sleep(50)
            await window.enter()
            await asyncio.sleep(500)
            window.leave(0)
            await waiting
            return clock()

    assert virtual_time.run(used()) == 610


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
        with common.window() as second:
            await second.enter()
            async with first.turn(), first.turn():
                third = await is_waiting(take_turn(first))
                assert not common.turns.locked()
            await third
