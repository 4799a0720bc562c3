import asyncio

import pytest

from service.api.hang_up import while_connected
from service.core.errors import Cancelled


class Connection:
    """A client that goes away when told to."""

    def __init__(self):
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_the_result_of_work_that_ends_first():
    async def work():
        return 7

    assert await while_connected(Connection().receive, work()) == 7


async def test_an_error_of_the_work_comes_through():
    async def work():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await while_connected(Connection().receive, work())


async def test_a_hang_up_cancels_the_work_and_waits_for_its_end():
    connection, ended = Connection(), []

    async def work():
        connection.gone.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(Cancelled):
        await while_connected(connection.receive, work())
    assert ended == [True]


async def test_cancelling_the_caller_cancels_the_work():
    begun, ended = asyncio.Event(), []

    async def work():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    caller = asyncio.create_task(while_connected(Connection().receive, work()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == [True]
