import asyncio
import os
import signal

import pytest

from service.composition.ending import Ending

LONG_S = 60.0


async def allowed(ending, work):
    """Whether the work was done when it had to be."""
    async with asyncio.timeout(LONG_S):
        await ending.allow(work)
    return work.done()


async def test_work_may_go_on_until_the_process_is_told_and_then_for_the_grace_time():
    with Ending(0.05) as ending:
        work = asyncio.create_task(asyncio.sleep(LONG_S))
        waiting = asyncio.create_task(allowed(ending, work))
        await asyncio.sleep(0.1)
        assert not any((waiting.done(), ending.begun, ending.over))
        ending.begin()
        assert await waiting is False
        assert (ending.begun, ending.over, ending.hurried) == (True, True, False)
        work.cancel()


async def test_work_that_is_done_is_not_waited_for():
    with Ending(LONG_S) as ending:
        ending.begin()
        assert await allowed(ending, asyncio.create_task(asyncio.sleep(0.01)))
        assert not ending.over


async def test_work_that_fails_keeps_its_error():
    async def fail():
        raise KeyError

    with Ending(LONG_S) as ending:
        work = asyncio.create_task(fail())
        assert await allowed(ending, work)
        with pytest.raises(KeyError):
            work.result()


async def test_the_grace_time_does_not_begin_again():
    with Ending(0.05) as ending:
        ending.begin()
        await asyncio.sleep(0.1)
        ending.begin()
        assert ending.over


async def test_the_first_signal_begins_the_second_hurries_and_later_ones_are_the_systems():
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with Ending(LONG_S) as ending:
        ending.hear_signals()
        work = asyncio.create_task(asyncio.sleep(LONG_S))
        waiting = asyncio.create_task(allowed(ending, work))
        os.kill(os.getpid(), signal.SIGTERM)
        await ending.wait()
        assert not ending.over
        os.kill(os.getpid(), signal.SIGINT)
        assert await waiting is False
        assert ending.hurried
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        work.cancel()
    for number, handler in previous.items():
        signal.signal(number, handler)
