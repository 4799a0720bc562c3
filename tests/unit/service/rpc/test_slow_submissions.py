import asyncio
from types import SimpleNamespace

import pytest

from service.access.caller import ANYBODY
from service.bench import virtual_time
from service.core.admission import Admission
from service.core.errors import DeadlineExceeded
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.rpc import restoration_pb2 as pb
from service.rpc.context import RpcContext
from service.rpc.servicer import RestorationServicer

CALL = SimpleNamespace(invocation_metadata=lambda: ())


def waited_s(requests):
    """Seconds until a photo that comes too slowly is given up, and its place given back."""

    async def submit():
        uploads = Admission(1, 0)
        unused = dict.fromkeys(("jobs", "sending", "webhooks", "reasons_not_ready", "room", "draining"))
        parts = RpcContext(
            gateway=SimpleNamespace(settings=Settings(), metrics=Metrics(), admission=Admission(1, 0)),
            access=SimpleNamespace(identify=lambda *_: ANYBODY),
            uploads=uploads,
            **unused,
        )
        with pytest.raises(DeadlineExceeded):
            await RestorationServicer(parts, asyncio.Event()).Submit(requests(), CALL)
        assert uploads.active == 0
        return asyncio.get_running_loop().time()

    return virtual_time.run(submit())


async def silence():
    yield pb.SubmitRequest(idempotency_key="x")
    await asyncio.sleep(10_000)


async def trickle():
    while True:
        yield pb.SubmitRequest(image=bytes(2048))
        await asyncio.sleep(1)


def test_a_photo_has_as_long_as_over_http():
    assert waited_s(silence) == 20
    assert 35 < waited_s(trickle) < 45
