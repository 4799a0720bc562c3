import asyncio
import contextlib
import time

import pytest

from service import gateway as module
from service.core.admission import Admission
from service.core.errors import DeadlineExceeded
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.threads import Threads
from service.core.types import OutputFormat, RestoreOptions, Upload
from service.gateway import Gateway
from tests.bundle import tiny_manifest
from tests.fakes import FakeDetector, HeldBroker
from tests.pictures import encoded, pixels
from tests.seen import Seen

PHOTO = Upload(encoded(pixels(128, 128)))
PX = 128 * 128
PLAIN = RestoreOptions()


@contextlib.asynccontextmanager
async def restoring(photos, options=PLAIN, **settings):
    """So many photos under way, held back by the workers: their tasks, what is decoded, the queue and the gateway."""
    broker, seen = HeldBroker(), Seen()
    with Threads(4) as pool:
        own = Settings(max_image_px=PX, **settings)
        gateway = Gateway(
            broker, FakeDetector(), tiny_manifest(), own, Metrics(), pool, Admission(photos + 1, 0), seen.decode
        )
        tasks = [asyncio.create_task(gateway.restore(PHOTO, options)) for _ in range(photos)]
        try:
            yield tasks, seen, broker, gateway
        finally:
            broker.go.set()
            await asyncio.gather(*tasks, return_exceptions=True)


async def begun(broker, photos):
    for _ in range(photos):
        await asyncio.to_thread(broker.begun.acquire)


async def test_pixels_of_many_photos_take_turns():
    async with restoring(6, photo_bytes=4 * 3 * PX) as (tasks, seen, broker, _):
        await begun(broker, 4)  # of 3 bytes a pixel, and as much before they were decoded
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert (seen.count, len(broker.jobs)) == (4, 4)
        broker.go.set()
        await asyncio.gather(*tasks)
        assert seen.count == 6


async def test_a_photo_that_waits_for_memory_longer_than_its_caller_does_leaves_no_hole():
    async with restoring(1, photo_bytes=1) as (tasks, seen, broker, gateway):
        await begun(broker, 1)
        with pytest.raises(DeadlineExceeded):
            await gateway.restore(PHOTO, PLAIN, until_s=time.time() + 0.1)
        assert seen.count == 1
        broker.go.set()
        await tasks[0]
        await gateway.restore(PHOTO, PLAIN)


async def test_photos_larger_than_the_memory_are_restored_one_by_one():
    async with restoring(3, photo_bytes=1) as (tasks, seen, broker, _):
        broker.go.set()
        await asyncio.gather(*tasks)
        assert seen.count == 3


async def test_results_are_made_one_by_one_where_they_do_not_fit_in_together(monkeypatch):
    at_once, finish = [], module.finish

    def counted(*args):
        at_once.append(1)
        time.sleep(0.02)  # for others to begin, if they may
        most.append(len(at_once))
        at_once.pop()
        return finish(*args)

    most = []
    monkeypatch.setattr(module, "finish", counted)
    large = RestoreOptions(upscale=2, output_format=OutputFormat.WEBP)
    async with restoring(4, large, photo_bytes=150 * PX) as (tasks, _, broker, _):
        await begun(broker, 4)
        broker.go.set()
        await asyncio.gather(*tasks)
    assert most == [1] * 4
