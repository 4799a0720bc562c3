"""What previews cost those who did not ask for them, on modelled accelerators and in their time."""

import asyncio
import logging

import numpy as np
import pytest

from service.bench import virtual_time
from service.bench.accelerator import Cost, ModelledAccelerator, modelled_manifest
from service.brokers.memory import MemoryBroker
from service.core.metrics import Metrics
from service.core.types import FaceJob
from service.sampling.sampler import Sampler
from service.worker import Worker

STEPS, PHOTOS, ROWS = 25, 96, 16
STEP = Cost(8.0, 1.0)
DEAR = Cost(40.0, 5.0)  # a preview takes five times as long as a step


def serve(previews, decoder, photos=PHOTOS):
    """All photos at once, every second with previews or none: seconds, each photo's latency, previews seen."""

    async def trial():
        loop = asyncio.get_running_loop()
        networks = dict.fromkeys(("estimator", "vae_encoder", "velocity"), STEP) | {"vae_decoder": decoder}
        broker = MemoryBroker(max_queued_faces=photos, metrics=Metrics(), clock=loop.time)
        sampler = Sampler(
            ModelledAccelerator(networks, ROWS), modelled_manifest(ROWS, STEPS), 2 * ROWS, metrics=Metrics()
        )
        stop, seen = asyncio.Event(), []
        working = asyncio.create_task(Worker(broker, sampler, metrics=Metrics()).run(stop))
        crop = np.zeros((8, 8, 3), np.uint8)

        async def one(number):
            every = previews * (number % 2 == 0)
            await broker.submit([FaceJob(str(number), 0, crop, STEPS, seed=number, preview_every=every)])
            await broker.results(str(number), None, None, seen.append)
            return loop.time()

        latencies_s = await asyncio.gather(*map(one, range(photos)))
        stop.set()
        await working
        return max(latencies_s), np.array(latencies_s), seen

    return virtual_time.run(trial())


@pytest.mark.parametrize("decoder", [STEP, DEAR], ids=["as dear as a step", "five times as dear"])
def test_others_are_hardly_later_for_previews(decoder, caplog):
    caplog.set_level(logging.CRITICAL)
    off_s, off, none = serve(0, decoder)
    on_s, on, seen = serve(2, decoder)
    assert none == []
    assert seen
    assert on_s / off_s < 1.04
    assert np.percentile(on[1::2], 99) / np.percentile(off[1::2], 99) < 1.04
    assert on[1::2].mean() / off[1::2].mean() < 1.04


def test_a_photo_alone_is_seen_at_every_step_that_was_asked_for():
    alone_s, _, seen = serve(2, STEP, photos=1)
    without_s, _, _ = serve(0, STEP, photos=1)
    assert [preview.steps_done for preview in seen] == list(range(2, STEPS, 2))
    assert alone_s - without_s <= len(seen) * STEP.seconds(1) + 1e-9
