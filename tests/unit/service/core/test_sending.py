import asyncio
import contextlib

import pytest

from service.composition.gateway import sending_room
from service.core.errors import DeadlineExceeded, NotFound, QueueFull
from service.core.results import StoredResult
from service.core.sending import SendingRoom
from service.core.settings import Settings
from service.core.types import OutputFormat, Report, Restoration

REPORT = Report("id", "tiny@7", 3, 2, 1, 10, 0.5, (), {}, OutputFormat.PNG)
MIB = 1 << 20


def of_size(size_bytes):
    """What fetches a result of this size."""

    async def fetch():
        return StoredResult(Restoration(bytes(size_bytes), REPORT), expires_at_s=9.0)

    return fetch


class Gate:
    """Fetches when it is let, and tells how many do at once."""

    def __init__(self):
        self.go = asyncio.Event()
        self.fetching = self.most = 0

    async def fetch(self):
        self.fetching += 1
        self.most = max(self.most, self.fetching)
        try:
            await self.go.wait()
        finally:
            self.fetching -= 1
        return await of_size(1)()


async def never():
    raise AssertionError("it was fetched")


async def sent(room, fetch, owner=""):
    async with room.fetched(owner, fetch) as stored:
        return len(stored.restoration.data)


async def test_results_that_fit_are_sent_side_by_side():
    room = SendingRoom(100)
    async with room.fetched("", of_size(60)), room.fetched("", of_size(40)):
        assert room.held_bytes == 100
    assert room.held_bytes == 0


async def test_what_does_not_fit_is_refused_and_holds_nothing():
    room = SendingRoom(100)
    async with room.fetched("", of_size(60)):
        with pytest.raises(QueueFull):
            await sent(room, of_size(41))
        assert room.held_bytes == 60
        assert await sent(room, of_size(40)) == 40
    assert await sent(room, of_size(41)) == 41


async def test_alone_a_result_may_have_any_size():
    room = SendingRoom(100)
    async with room.fetched("", of_size(1000)):
        assert room.held_bytes == 1000
        with pytest.raises(QueueFull):
            await sent(room, never)
    assert room.held_bytes == 0


async def test_an_owner_leaves_room_for_others():
    room = SendingRoom(100)
    async with room.fetched("anna", of_size(30)):
        assert await sent(room, of_size(20), "anna") == 20
        with pytest.raises(QueueFull, match="of yours"):
            await sent(room, of_size(21), "anna")
        async with room.fetched("bert", of_size(60)):
            assert room.held_bytes == 90
            with pytest.raises(QueueFull, match="of yours"):
                await sent(room, of_size(1), "bert")
    assert await sent(room, of_size(100), "anna") == 100


async def held(room, size_bytes, owner=""):
    async with room.held(owner, size_bytes):
        return room.held_bytes


async def test_what_is_here_already_waits_for_others_to_go():
    room, going = SendingRoom(100), asyncio.Event()

    async def stand():
        async with room.fetched("", of_size(60)):
            await going.wait()

    standing = asyncio.create_task(stand())
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(held(room, 50)) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    assert await held(room, 40) == 100
    waiting.pop().cancel()
    going.set()
    assert max(await asyncio.gather(*waiting)) <= 100
    await standing
    assert room.held_bytes == 0


async def test_what_is_here_already_does_not_wait_for_ever():
    room = SendingRoom(100, line_s=0.01)
    async with room.held("anna", 50):
        room.check("bert")
        with pytest.raises(QueueFull, match="of yours"):
            room.check("anna")
        with pytest.raises(QueueFull, match="of yours"):
            await held(room, 1, "anna")
        with pytest.raises(QueueFull):
            await held(room, 51, "bert")
        assert room.held_bytes == 50
    assert await held(room, 1000, "anna") == 1000


async def test_whatever_ends_the_sending_gives_the_room_back():
    room, begun = SendingRoom(100), asyncio.Event()

    async def stand_still():
        async with room.fetched("", of_size(60)):
            begun.set()
            await asyncio.Event().wait()

    with pytest.raises(ConnectionError):
        async with room.fetched("", of_size(60)):
            raise ConnectionError
    standing = asyncio.create_task(stand_still())
    await begun.wait()
    assert room.held_bytes == 60
    standing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await standing
    assert room.held_bytes == 0


async def test_few_are_fetched_at_once_and_who_fails_or_goes_makes_way():
    async def unknown():
        raise NotFound("no such restoration")

    room, gate = SendingRoom(100), Gate()
    for _ in range(20):
        with pytest.raises(NotFound):
            await sent(room, unknown)
    sending = [asyncio.create_task(sent(room, gate.fetch)) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert gate.fetching == 4
    for task in sending[:8]:  # half of them fetch, half wait
        task.cancel()
    gate.go.set()
    await asyncio.gather(*sending[:8], return_exceptions=True)
    assert await asyncio.gather(*sending[8:]) == [1] * 12
    assert gate.most == 4


async def test_a_queue_that_hangs_lets_nobody_wait_for_ever():
    room, gate = SendingRoom(100, line_s=0.01), Gate()
    hanging = [asyncio.create_task(sent(room, gate.fetch)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await sent(room, never)
    gate.go.set()
    assert await asyncio.gather(*hanging) == [1] * 4
    assert await sent(room, of_size(2)) == 2


async def test_a_part_is_written_in_time():
    room, done = SendingRoom(100, part_s=0.01), asyncio.Event()
    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        await room.in_time(done.wait())
    done.set()
    await room.in_time(done.wait())

    async def fail():
        raise TimeoutError("the system's")

    with pytest.raises(TimeoutError, match="the system's"):
        await room.in_time(fail())


async def test_without_memory_for_results_there_is_room_to_send_some():
    room = sending_room(Settings(result_cache_bytes=0))
    async with contextlib.AsyncExitStack() as sending:
        for _ in range(8):
            await sending.enter_async_context(room.fetched("", of_size(8 * MIB)))
        with pytest.raises(QueueFull):
            await sent(room, of_size(1))
