import asyncio
import contextvars
import gc
import threading
import weakref

import pytest

from service.core.threads import Threads

NAME = contextvars.ContextVar("name", default="nobody")


class Photo:
    """Something whose end can be seen."""


class Gates:
    """Calls that last until they are let go."""

    def __init__(self):
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)

    def pass_by(self, what=None):
        self.begun.release()
        assert self.go.wait(timeout=30)
        return what


async def begun(gates):
    assert await asyncio.to_thread(gates.begun.acquire, timeout=30)


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


async def gone(task):
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_call_has_its_arguments_its_callers_context_and_another_thread():
    def told(first, *, second):
        return first, second, NAME.get(), threading.current_thread().name

    NAME.set("anna")
    with Threads(1) as threads:
        first, second, name, thread = await threads.run(told, 1, second=2)
    assert (first, second, name) == (1, 2, "anna")
    assert thread.startswith("stage")


async def test_an_error_comes_through_and_gives_the_turn_back():
    with Threads(1) as threads:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await threads.run(divmod, 1, 0)
        assert await threads.run(divmod, 7, 2) == (3, 1)


async def test_who_goes_before_his_turn_leaves_nothing_behind():
    gates = Gates()
    with Threads(2) as threads:
        running = [asyncio.create_task(threads.run(gates.pass_by)) for _ in range(2)]
        for _ in running:
            await begun(gates)
        photo = Photo()
        left = weakref.ref(photo)
        waiting = asyncio.create_task(threads.run(gates.pass_by, photo))
        del photo
        await settled()
        await gone(waiting)
        del waiting
        gc.collect()
        assert left() is None
        gates.go.set()
        await asyncio.gather(*running)
        assert await threads.run(divmod, 7, 2) == (3, 1)


async def test_a_call_that_nobody_waits_for_any_more_keeps_its_thread_until_it_ends():
    gates, other = Gates(), Gates()
    with Threads(1) as threads:
        dropped = asyncio.create_task(threads.run(gates.pass_by))
        await begun(gates)
        await gone(dropped)
        following = asyncio.create_task(threads.run(other.pass_by, "next"))
        await settled()
        assert not other.begun.acquire(blocking=False)
        gates.go.set()
        other.go.set()
        assert await following == "next"


async def test_the_line_is_served_in_its_order():
    order, gates = [], Gates()
    with Threads(1) as threads:
        first = asyncio.create_task(threads.run(gates.pass_by))
        await begun(gates)
        line = [asyncio.create_task(threads.run(order.append, place)) for place in range(5)]
        await settled()
        gates.go.set()
        await asyncio.gather(first, *line)
    assert order == [0, 1, 2, 3, 4]


def test_a_call_may_outlast_the_loop(caplog):
    gates = Gates()

    async def leave(threads):
        running = asyncio.create_task(threads.run(gates.pass_by))
        await begun(gates)
        await gone(running)

    with Threads(1) as threads:
        asyncio.run(leave(threads))
        gates.go.set()
    assert caplog.records == []


async def test_after_the_end_nothing_is_run():
    with Threads(1) as threads:
        pass
    for _ in range(2):
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError):
                await threads.run(divmod, 7, 2)
