"""What a stream leaves behind of photos that have ended, and what one that cannot be counted does to the others."""

import asyncio
import contextlib
import gc
import weakref

import grpc
import numpy as np
import pytest

from service.access.accounts import Accounts
from service.access.caller import Caller
from service.brokers.memory_meter import MemoryMeter
from service.core.admission import Admission
from service.core.errors import CorruptImage, DependencyUnavailable, InferenceFailed
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.threads import Threads
from service.core.types import Restoration, RestoreOptions, Upload
from service.core.windows import StreamRoom
from service.gateway import Gateway
from service.rpc import restoration_pb2 as pb
from service.stages.decode import decode
from service.stream import PhotoEnded, PhotoStream
from tests.api_keys import add_key
from tests.bundle import tiny_manifest
from tests.fakes import AnalyticBackend, EchoBroker, FakeDetector
from tests.pictures import encoded, pixels
from tests.rpc_serving import ending, next_answer, part, photo, rpc_service, setup, until
from tests.seen import Seen

FACE = encoded(pixels(64, 64))
ANYBODY = Caller()


@contextlib.asynccontextmanager
async def stream_of(decoder, broker, **settings):
    """A stream of photos without a wire, and its window."""
    room = StreamRoom(at_once=4, max_photos=16, max_bytes=1 << 20)
    with Threads(1) as pool, room.window() as window:
        gateway = Gateway(
            broker=broker,
            detector=FakeDetector(),
            manifest=tiny_manifest(),
            settings=Settings(**settings),
            metrics=Metrics(),
            pool=pool,
            admission=Admission(4, 4),
            decode=decoder,
        )
        async with PhotoStream(gateway, window, ANYBODY, Accounts(MemoryMeter())) as stream:
            yield stream, window


@pytest.mark.parametrize(
    ("options", "broker", "settings", "code"),
    [
        (RestoreOptions(det_threshold=1.0), EchoBroker, {}, "no_face_found"),
        (RestoreOptions(), lambda: EchoBroker(error=InferenceFailed("nan")), {}, "inference_failed"),
        (RestoreOptions(), lambda: EchoBroker(hold=asyncio.Event()), {"request_timeout_s": 0.3}, "deadline_exceeded"),
    ],
    ids=["photo", "network", "deadline"],
)
async def test_a_failure_that_is_not_read_holds_nothing_of_its_photo(options, broker, settings, code):
    seen = Seen()
    async with stream_of(seen.decode, broker(), **settings) as (stream, window):
        await stream.open("a")
        stream.receive("a", len(FACE))
        stream.start("a", Upload(FACE), options)
        await until(lambda: seen.count and window.upload_bytes == 0)
        gc.collect()
        assert (seen.count, seen.left) == (1, [])
        async with contextlib.aclosing(stream.events()) as events:
            event = await anext(events)
    assert isinstance(event, PhotoEnded)
    assert event.outcome.code == code


async def test_a_refusal_that_is_not_read_holds_nothing_of_its_photo():
    async with stream_of(decode, EchoBroker()) as (stream, _):
        await stream.open("a")
        frames = []

        def refuse():
            parts = np.zeros(4)
            frames.append(weakref.ref(parts))
            try:
                raise CorruptImage("cut")
            except CorruptImage as error:
                stream.refuse("a", error)

        refuse()
        gc.collect()
        assert frames[0]() is None


async def test_a_result_that_was_read_is_not_kept_until_the_next_one():
    async with rpc_service() as parts:
        call = parts.stub.RestoreBatch()
        await call.read()
        (window,) = parts.room.windows
        await call.write(setup())
        await call.write(photo("a", encoded(pixels(72, 72, seed=11))))  # nobody else's
        _, image = await next_answer(call)
        await until(lambda: window.photos == 0)
        gc.collect()
        assert not [kept for kept in gc.get_objects() if type(kept) is Restoration and kept.data == image]
        call.cancel()


async def test_a_photo_that_cannot_be_counted_fails_alone(tmp_path, monkeypatch):
    key, counted, count = add_key(tmp_path / "keys.json", requests_per_s=1000, burst=100), [], MemoryMeter.knock

    async def away_once(self, account, rate):
        counted.append(account)
        if len(counted) in (3, 4):  # the call, the first photo, and then
            raise DependencyUnavailable("the queue's server does not answer")
        return await count(self, account, rate)

    monkeypatch.setattr(MemoryMeter, "knock", away_once)
    gate = asyncio.Event()
    async with rpc_service(
        api_keys_file=tmp_path / "keys.json", backend=AnalyticBackend(gates={"velocity": gate})
    ) as parts:
        call = parts.stub.RestoreBatch(metadata=(("x-api-key", key),))
        await call.read()
        await call.write(setup())
        for request in (
            photo("a", FACE),
            photo("b", FACE),
            photo("c", FACE[:50], has_more=True),
            part("c", FACE[50:99], has_more=True),
            pb.RestoreBatchRequest(cancel=pb.BatchCancel(client_id="c")),
            part("c", FACE[99:]),
            photo("d", FACE),
        ):
            await call.write(request)
        await call.done_writing()
        refused = [await next_answer(call) for _ in range(2)]
        assert refused == [("b", "dependency_unavailable"), ("c", "dependency_unavailable")]
        gate.set()
        restored = dict([await next_answer(call), await next_answer(call)])
        assert await ending(call) == (grpc.StatusCode.OK, "")
    assert set(restored) == {"a", "d"}
    assert all(isinstance(image, bytes) for image in restored.values())
