"""Photos that fail on the client's side: each is told once, whatever becomes of the stream meanwhile."""

import asyncio
import contextlib

import grpc
import pytest
from grpc import aio

from service.client.results import Photo
from service.client.retry import Retry
from service.client.stream import BatchCall
from service.client.supply import Supply
from service.rpc import restoration_pb2 as pb

PHOTOS, WINDOW, PATIENCE_S = 12, 4, 10.0


class Call:
    """A stream of a service that only accepts it; `end` is how it ends."""

    def __init__(self):
        self.end = asyncio.get_running_loop().create_future()
        self._told = False

    async def read(self):
        if not self._told:
            self._told = True
            return pb.RestoreBatchResponse(opening=pb.BatchOpening(window=WINDOW, max_message_bytes=1 << 20))
        return await self.end

    async def write(self, message):
        assert message.WhichOneof("message") == "setup"

    async def done_writing(self):
        if not self.end.done():
            self.end.set_result(aio.EOF)

    def lose(self):
        if not self.end.done():
            lost = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), "Socket closed")
            self.end.set_exception(lost)

    def cancel(self):
        self.end.cancel()


@contextlib.asynccontextmanager
async def batch(photos):
    """The answers to photos, and the streams that were opened for them."""
    calls = []

    def opened():
        calls.append(Call())
        return calls[-1]

    async def max_upload_bytes():
        return 8

    supply = Supply(photos, WINDOW, Retry(attempts=3, first_s=0.0))
    made = BatchCall(opened, max_upload_bytes, pb.RestoreOptions(), None, Retry(attempts=3, first_s=0.0))
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(made.answers(supply)) as answers:
        yield answers, calls
    await supply.close()


async def settled():
    """Until nothing on this loop goes on by itself; files that are not there are looked for in threads."""
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("lost_after", range(PHOTOS))
@pytest.mark.parametrize("returns_at_once", [True, False])
async def test_each_is_told_once_though_the_stream_is_lost_while_the_caller_is_busy(
    tmp_path, lost_after, returns_at_once
):
    photos = [Photo(str(number), tmp_path / f"{number}.png") for number in range(PHOTOS)]
    told = []
    async with batch(photos) as (answers, calls):
        async for answer in answers:
            told.append(answer.client_id)
            assert answer.error.code == "unreadable"
            if len(told) == lost_after + 1:
                await settled()
                calls[-1].lose()
                await settled()
            elif not returns_at_once:
                await asyncio.sleep(0)
    assert sorted(told, key=int) == [photo.client_id for photo in photos]


async def test_what_is_too_large_is_told_as_well(tmp_path):
    photos = [Photo("a", b"x" * 9), Photo("b", tmp_path / "absent.png"), Photo("c", b"x" * 9)]
    told = {}
    async with batch(photos) as (answers, calls):
        async for answer in answers:
            if not told:
                await settled()
                calls[-1].lose()
                await settled()
            assert answer.client_id not in told
            told[answer.client_id] = answer.error.code
    assert told == {"a": "upload_too_large", "b": "unreadable", "c": "upload_too_large"}


async def test_a_caller_who_takes_no_answers_stops_the_reading(tmp_path):
    taken = []

    def source():
        for number in range(1000):
            taken.append(number)
            yield Photo(str(number), tmp_path / f"{number}.png")

    async with batch(source()) as (answers, _):
        await anext(answers)
        await settled()
        assert len(taken) <= 2 * WINDOW
