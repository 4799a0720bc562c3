"""How many calls there may be, and how long each may take to begin."""

import asyncio
import contextlib
from types import SimpleNamespace

import grpc
import pytest

from service.access.caller import Caller
from service.bench import virtual_time
from service.core.admission import Admission
from service.core.errors import DeadlineExceeded, MalformedRequest, QueueFull
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.tasks import end_tasks
from service.rpc import restoration_pb2 as pb
from service.rpc.bounding import Bounding
from tests.rpc_serving import until

OURS = "restoration.v1.RestorationService"
CHECK = "/grpc.health.v1.Health/Check"


class Call:
    """A call as the library shows it."""

    def __init__(self, read, owner=""):
        self.read = read
        self.owner = owner
        self._ended = []

    def invocation_metadata(self):
        return (("x-api-key", self.owner),)

    def add_done_callback(self, ended):
        self._ended.append(ended)

    def end(self):
        for ended in self._ended:
            ended(self)


async def silence():
    await asyncio.sleep(10_000)


async def message():
    return b""


async def no_message():
    return grpc.aio.EOF


def bounding(uploads=None, **options):
    parts = SimpleNamespace(
        gateway=SimpleNamespace(settings=Settings(), metrics=Metrics()),
        access=SimpleNamespace(identify=lambda _, keys: Caller(owner=keys[0], key_id=keys[0])),
        uploads=uploads or Admission(1, 0),
    )
    return Bounding(parts, OURS, CHECK, **options)


async def answered(bounds, method, call, behaviour):
    """The answer to a call of one message."""
    handler = grpc.unary_unary_rpc_method_handler(behaviour, pb.GetRequest.FromString)

    async def found(_details):
        return handler

    bounded = await bounds.intercept_service(found, SimpleNamespace(method=method))
    return await bounded.stream_unary(None, call)


async def answer(_request, _call):
    return "answer"


@pytest.mark.parametrize(("method", "longest_s"), [("Get", 20), ("Restore", Settings().request_timeout_s)])
def test_a_message_has_its_time(method, longest_s):
    async def asked():
        uploads = Admission(1, 0)
        with pytest.raises(DeadlineExceeded):
            await answered(bounding(uploads), f"/{OURS}/{method}", Call(silence), answer)
        assert uploads.active == 0
        return asyncio.get_running_loop().time()

    assert virtual_time.run(asked()) == longest_s


async def test_a_call_without_a_message_is_the_caller_s_fault():
    with pytest.raises(MalformedRequest):
        await answered(bounding(), f"/{OURS}/Get", Call(no_message), answer)


async def test_a_photo_has_a_place_while_it_arrives():
    bounds = bounding(Admission(1, 0))
    first = asyncio.create_task(answered(bounds, f"/{OURS}/Restore", Call(silence), answer))
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFull):
        await answered(bounds, f"/{OURS}/Restore", Call(message), answer)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert await answered(bounds, f"/{OURS}/Restore", Call(message), answer) == "answer"


async def test_a_call_counts_until_its_caller_has_its_end():
    bounds, call = bounding(max_calls=1), Call(message)
    assert await answered(bounds, f"/{OURS}/Get", call, answer) == "answer"
    with pytest.raises(QueueFull):
        await answered(bounds, f"/{OURS}/Get", Call(message), answer)
    call.end()
    assert await answered(bounds, f"/{OURS}/Get", Call(message), answer) == "answer"


async def test_an_owner_has_half_of_the_calls():
    bounds = bounding(max_calls=4)
    for owner in ("anna", "anna", "bert"):
        await answered(bounds, f"/{OURS}/Get", Call(message, owner), answer)
    with pytest.raises(QueueFull, match="yours"):
        await answered(bounds, f"/{OURS}/Get", Call(message, "anna"), answer)
    assert await answered(bounds, f"/{OURS}/Get", Call(message, "bert"), answer) == "answer"


async def test_of_an_owner_s_messages_64_are_read_at_once():
    bounds, begun = bounding(), []

    async def unfinished():
        begun.append(1)
        await silence()

    calls = [
        asyncio.create_task(answered(bounds, f"/{OURS}/Get", Call(unfinished, "anna"), answer)) for _ in range(100)
    ]
    await until(lambda: len(begun) == 64)
    assert await answered(bounds, f"/{OURS}/Get", Call(message, "bert"), answer) == "answer"
    assert len(begun) == 64
    calls[0].cancel()
    await until(lambda: len(begun) == 65)
    await end_tasks(*calls)
    assert await answered(bounds, f"/{OURS}/Get", Call(message, "anna"), answer) == "answer"


async def test_one_method_is_never_counted():
    bounds = bounding(max_calls=1)
    for _ in range(200):
        assert await answered(bounds, CHECK, Call(message), answer) == "answer"


async def test_what_waits_for_its_message_is_not_waited_for():
    bounds, gate = bounding(), asyncio.Event()

    async def slow(_request, _call):
        await gate.wait()

    half = asyncio.create_task(answered(bounds, f"/{OURS}/Get", Call(silence), answer))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(bounds.emptied(), 1)
    whole = asyncio.create_task(answered(bounds, f"/{OURS}/Get", Call(message), slow))
    await asyncio.sleep(0.01)
    emptied = asyncio.create_task(bounds.emptied())
    await asyncio.sleep(0.01)
    assert not emptied.done()
    gate.set()
    await asyncio.gather(whole, emptied)
    half.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await half
