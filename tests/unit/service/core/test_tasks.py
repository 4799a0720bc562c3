import asyncio

import pytest

from service.core.tasks import beside, end_tasks, until_stopped


async def forever():
    await asyncio.Event().wait()


async def broken():
    raise KeyError("a bug")


async def test_tasks_are_over_when_they_have_been_ended_however_they_end():
    tasks = [asyncio.create_task(work()) for work in (forever, broken)]
    await asyncio.sleep(0)
    await end_tasks(*tasks)
    assert tasks[0].cancelled()
    assert isinstance(tasks[1].exception(), KeyError)


async def test_work_beside_a_block_ends_with_it():
    async with beside(forever(), "work") as task:
        await asyncio.sleep(0)
        assert not task.done()
    assert task.cancelled()


async def test_work_may_end_by_itself_after_a_stop():
    stop, ended = asyncio.Event(), []

    async def work():
        await stop.wait()
        ended.append(True)

    asyncio.get_running_loop().call_later(0.01, stop.set)
    await until_stopped(work(), stop, name="work", grace_s=30)
    assert ended == [True]


async def test_work_that_takes_too_long_is_cut_short_with_what_it_has_begun():
    stop = asyncio.Event()
    stop.set()
    begun = {asyncio.create_task(forever())}
    await until_stopped(forever(), stop, name="work", grace_s=0.01, begun=begun)
    assert all(task.cancelled() for task in begun)


async def test_an_error_of_the_work_is_the_caller_s_without_a_stop():
    with pytest.raises(KeyError, match="a bug"):
        await until_stopped(broken(), asyncio.Event(), name="work", grace_s=30)
