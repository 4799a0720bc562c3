import asyncio
import contextlib

import pytest

from service.composition.ending import Ending
from service.composition.loops import Loops, part_with

LONG_S = 60.0


class Worker:
    """A loop with something under way: it takes `s` to finish, and notes how it ended."""

    def __init__(self, s=0.0):
        self.s = s
        self.ended = []

    async def run(self, stop):
        try:
            await stop.wait()
            await asyncio.sleep(self.s)
            self.ended.append("finished")
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            self.ended.append("handed back")
            raise


async def test_a_loop_finishes_what_it_has_and_those_begun_first_end_last():
    order = []

    def noting(name):
        async def run(stop):
            await stop.wait()
            order.append(name)

        return run

    loops = Loops(Ending(LONG_S))
    async with loops.running("first", noting("first")), loops.running("second", noting("second")):
        assert (loops.fallen(), len(loops.tasks)) == ([], 2)
    assert order == ["second", "first"]
    assert (loops.fallen(), loops.failures()) == ([], {})


@pytest.mark.parametrize(("takes_s", "grace_s", "end"), [(0.02, LONG_S, "finished"), (LONG_S, 0.02, "handed back")])
async def test_what_is_not_finished_within_the_grace_time_is_handed_back(takes_s, grace_s, end):
    worker = Worker(takes_s)
    ending = Ending(grace_s)
    loops = Loops(ending)
    async with loops.running("worker", worker.run):
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, ending.begin)
        await loops.end("worker")
        assert worker.ended == [end]
    assert worker.ended == [end]


async def test_all_loops_share_one_grace_time():
    workers = {name: Worker(LONG_S) for name in "abc"}
    ending = Ending(0.05)
    loops = Loops(ending)
    async with asyncio.timeout(LONG_S), contextlib.AsyncExitStack() as stack:
        for name, worker in workers.items():
            await stack.enter_async_context(loops.running(name, worker.run))
        await asyncio.sleep(0)
    assert ending.over
    assert [worker.ended for worker in workers.values()] == [["handed back"]] * 3


async def test_a_loop_that_fails_is_named_with_its_error():
    async def fail(stop):
        raise KeyError("lost")

    loops = Loops(Ending(LONG_S))
    async with loops.running("sound", Worker().run), loops.running("broken", fail):
        await asyncio.wait(loops.tasks, return_when=asyncio.FIRST_COMPLETED)
        assert loops.fallen() == ["broken"]
    assert {name: type(error) for name, error in loops.failures().items()} == {"broken": KeyError}


async def test_a_server_that_hangs_is_not_waited_for():
    closed = []

    async def close():
        try:
            await asyncio.sleep(LONG_S)
        finally:
            closed.append(True)

    async with asyncio.timeout(LONG_S / 2):
        await part_with(close)
    assert closed == [True]
