"""What photos leave behind that have ended, were it only until Python looks for rings: nothing, and no false charge."""

import asyncio
import contextlib
import gc
import logging
from dataclasses import replace

import pytest

from service.access.accounts import Accounts
from service.access.caller import Quota
from service.api.hang_up import while_connected
from service.brokers.memory_meter import MemoryMeter
from service.core.admission import Admission
from service.core.errors import DeadlineExceeded, DependencyUnavailable, InferenceFailed
from service.core.jobs import Charge, JobState, Progress
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.threads import Threads
from service.core.types import Restoration, RestoreOptions, Upload
from service.gateway import Gateway
from service.runner import PhotoRunner
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector, UnsteadyBroker, face_at
from tests.job_queues import LONG_S, end_of, memory, photo
from tests.pictures import encoded, pixels
from tests.rpc_serving import until
from tests.seen import Seen

QUOTA = Quota(10**9, 3600.0)
OWN = encoded(pixels(seed=4711))  # no other test's


@pytest.fixture
def no_collector():
    """Rings of objects stay, as they may for minutes in a service that has little to do."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@contextlib.contextmanager
def gateway_of(seen, broker, **settings):
    with Threads(2) as pool:
        yield Gateway(
            broker=broker,
            detector=FakeDetector(lambda _pixels: [face_at(8, 8, 40), face_at(60, 8, 40)]),
            manifest=tiny_manifest(),
            settings=Settings(**settings),
            metrics=Metrics(),
            pool=pool,
            admission=Admission(4, 0),
            decode=seen.decode,
        )


@contextlib.asynccontextmanager
async def at_work(jobs, seen, broker, *, accounts=None, pause_s=0.01, **settings):
    """A runner on the queue for the duration of the block."""
    stop = asyncio.Event()
    with gateway_of(seen, broker, **settings) as gateway:
        runner = PhotoRunner(jobs, gateway, pause_s=pause_s, beat_s=0.01, accounts=accounts)
        running = asyncio.create_task(runner.run(stop))
        yield
        stop.set()
        await asyncio.wait_for(running, LONG_S)


class Around:
    """A queue of photos with something done before results and failures reach it."""

    def __init__(self, queue, before):
        self._queue = queue
        self._before = before

    async def finish(self, restoration):
        await self._before(restoration.report.id)
        return await self._queue.finish(restoration)

    async def fail(self, job_id, error):
        await self._before(job_id)
        return await self._queue.fail(job_id, error)

    def __getattr__(self, name):
        return getattr(self._queue, name)


@pytest.mark.parametrize(
    ("options", "errors", "settings", "code"),
    [
        ({"det_threshold": 1.0}, [], {}, "no_face_found"),
        ({}, [InferenceFailed("nan")], {}, "inference_failed"),
        ({}, None, {"request_timeout_s": 0.2}, "deadline_exceeded"),
    ],
    ids=["photo", "network", "deadline"],
)
@pytest.mark.usefixtures("no_collector")
async def test_the_picture_of_a_job_that_failed_is_gone_at_once(options, errors, settings, code):
    seen, broker = Seen(), EchoBroker(hold=asyncio.Event()) if errors is None else UnsteadyBroker(*errors)
    async with memory() as queue, at_work(queue, seen, broker, **settings):
        await queue.admit(replace(photo("a"), upload=Upload(OWN), options=RestoreOptions(**options)))
        await end_of(queue, "a")
        await until(lambda: not seen.left)
        assert (seen.count, (await queue.status("a")).failure.code) == (1, code)


@pytest.mark.usefixtures("no_collector")
async def test_a_failure_that_the_queue_cannot_take_holds_nothing_of_its_photo():
    seen, is_back, asked = Seen(), asyncio.Event(), asyncio.Event()

    async def away(_job_id):
        asked.set()
        if not is_back.is_set():
            raise DependencyUnavailable("away")

    async with memory() as queue, at_work(Around(queue, away), seen, UnsteadyBroker(InferenceFailed("nan"))):
        await queue.admit(replace(photo("a"), upload=Upload(OWN)))
        await asked.wait()
        await until(lambda: not seen.left)
        assert seen.count == 1
        is_back.set()
        assert await end_of(queue, "a") is JobState.FAILED


@pytest.mark.usefixtures("no_collector")
async def test_a_photo_that_waits_to_be_begun_again_has_no_picture():
    seen = Seen()
    broker = UnsteadyBroker(DependencyUnavailable("away"))
    async with memory() as queue, at_work(queue, seen, broker, pause_s=0.5):
        await queue.admit(replace(photo("a"), upload=Upload(OWN)))
        await until(lambda: seen.count == 1 and not broker.errors)
        await until(lambda: not seen.left)
        assert seen.count == 1
        assert await end_of(queue, "a") is JobState.SUCCEEDED


async def test_what_is_deleted_is_not_kept_by_a_runner_that_waits_for_the_next_photo():
    async with memory() as queue, at_work(queue, Seen(), EchoBroker()):
        await queue.admit(replace(photo("a"), upload=Upload(OWN)))
        await end_of(queue, "a")
        data = (await queue.result("a")).restoration.data
        await queue.delete("a")

        def left():
            gc.collect()
            kept = [each for each in gc.get_objects() if type(each) in (Upload, Restoration)]
            return [each for each in kept if each.data in (OWN, data)]

        await until(lambda: not left())


@pytest.mark.usefixtures("no_collector")
async def test_the_picture_of_a_direct_photo_that_took_too_long_is_gone_at_once():
    async def connected():
        await asyncio.Event().wait()

    async def late(gateway):
        try:
            await while_connected(connected, gateway.restore(Upload(OWN), RestoreOptions()))
        except DeadlineExceeded as error:
            error.__traceback__ = None  # as Starlette does when it has answered
            return True

    seen = Seen()
    with gateway_of(seen, EchoBroker(hold=asyncio.Event()), request_timeout_s=0.2) as gateway:
        assert await late(gateway)
        await until(lambda: not seen.left)
    assert seen.count == 1


@pytest.mark.parametrize("way", ["cancel", "delete"])
@pytest.mark.parametrize("error", [None, InferenceFailed("nan")], ids=["restored", "failed"])
async def test_a_job_that_is_withdrawn_as_it_ends_costs_its_one_face(way, error, caplog):
    caplog.set_level(logging.INFO, "service.core.photo_log")

    def told():
        return [record.fields["outcome"] for record in caplog.records if record.message == "a photo has ended"]

    accounts, broker = Accounts(MemoryMeter()), EchoBroker(error=error)
    charge = Charge("shop", 1000, QUOTA.window_s)
    await accounts.meter.spend("shop", QUOTA, charge.photo_px)
    async with memory() as queue:
        withdrawn = Around(queue, getattr(queue, way))
        async with at_work(withdrawn, Seen(), broker, accounts=accounts):
            await queue.admit(replace(photo("a", charge=charge), upload=Upload(OWN)))
            await until(lambda: told() == ["cancelled"])
    assert len(broker.jobs["a"]) == 2
    assert (await accounts.meter.spend("shop", QUOTA, 0)).spent_face_px == charge.photo_px


class SomeDone(EchoBroker):
    """Some faces are restored, the others never."""

    def __init__(self, faces):
        super().__init__()
        self.progress = Progress(num_faces=5, faces_done=faces, num_steps=20, steps_done=13)

    async def results(self, job_id, timeout_s, on_progress=None, on_preview=None):
        on_progress(self.progress)
        await asyncio.Event().wait()


async def test_a_job_that_took_too_long_costs_the_faces_that_were_restored():
    accounts, charge = Accounts(MemoryMeter()), Charge("shop", 1000, QUOTA.window_s)
    await accounts.meter.spend("shop", QUOTA, charge.photo_px)
    async with memory() as queue, at_work(queue, Seen(), SomeDone(1), accounts=accounts, request_timeout_s=0.2):
        await queue.admit(replace(photo("a", charge=charge), upload=Upload(OWN)))
        await end_of(queue, "a")
        assert (await queue.status("a")).failure.extra["faces_done"] == 1
    assert (await accounts.meter.spend("shop", QUOTA, 0)).spent_face_px == charge.photo_px


async def test_a_job_that_is_withdrawn_costs_the_faces_that_were_restored():
    accounts, charge = Accounts(MemoryMeter()), Charge("shop", 1000, QUOTA.window_s)
    await accounts.meter.spend("shop", QUOTA, charge.photo_px)
    async with memory() as queue, at_work(queue, Seen(), SomeDone(3), accounts=accounts):
        await queue.admit(replace(photo("a", charge=charge), upload=Upload(OWN)))
        async with contextlib.aclosing(queue.watch("a")) as statuses:
            async for status in statuses:
                if status.progress is not None:
                    break
        await queue.cancel("a")
    assert (await accounts.meter.spend("shop", QUOTA, 0)).spent_face_px == 3 * charge.photo_px
