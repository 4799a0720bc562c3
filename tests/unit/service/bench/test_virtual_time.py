import asyncio
import time

import pytest

from service.bench import virtual_time

HOUR_S = 3600.0


def test_hours_pass_in_no_time_and_in_order():
    async def sleepers():
        order = []

        async def sleeper(seconds):
            await asyncio.sleep(seconds)
            order.append((seconds, asyncio.get_running_loop().time()))

        await asyncio.gather(*(sleeper(seconds) for seconds in (HOUR_S, 0.25, 10 * HOUR_S, 0.0)))
        return order

    begin_s = time.monotonic()
    order = virtual_time.run(sleepers())
    assert [seconds for seconds, _ in order] == [0.0, 0.25, HOUR_S, 10 * HOUR_S]
    assert [now_s for _, now_s in order] == pytest.approx([0.0, 0.25, HOUR_S, 10 * HOUR_S])
    assert time.monotonic() - begin_s < HOUR_S


def test_time_stands_still_while_something_can_run():
    async def busy():
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(busy()) == 0.0


def test_time_limits_are_kept():
    async def too_long():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.sleep(HOUR_S)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(too_long()) == pytest.approx(5.0)


def test_work_for_a_thread_is_done_at_once_and_its_error_is_raised():
    async def work():
        assert await asyncio.to_thread(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 7, 0)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(work()) == 0.0


def test_waiting_for_what_never_comes_is_an_error_and_not_a_hang():
    with pytest.raises(RuntimeError, match="every task waits"):
        virtual_time.run(asyncio.Event().wait())


def test_what_is_left_is_cancelled_at_the_end():
    ended = []

    async def endless():
        try:
            await asyncio.sleep(HOUR_S)
        finally:
            ended.append(asyncio.get_running_loop().time())

    async def leave():
        task = asyncio.get_running_loop().create_task(endless())
        await asyncio.sleep(1.0)
        return task

    assert virtual_time.run(leave()).cancelled()
    assert ended == [pytest.approx(1.0)]
