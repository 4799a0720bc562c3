"""Each photo's end is counted, told once and noted on its span, by who stores it: gateways that share a queue."""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

import pytest
from opentelemetry.trace import StatusCode

from service.core.admission import Admission
from service.core.errors import DeadlineExceeded, DependencyUnavailable, ImageTooLarge, InferenceFailed
from service.core.jobs import JobState
from service.core.metrics import Metrics
from service.core.photo_log import count_failed
from service.core.settings import Settings
from service.core.tasks import end_tasks
from service.core.threads import Threads
from service.core.types import RestoreOptions, Upload
from service.gateway import Gateway
from service.runner import PhotoRunner
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector, UnsteadyBroker
from tests.job_queues import LONG_S, end_of, memory, photo, photos_counted
from tests.kept_spans import kept_spans
from tests.pictures import encoded
from tests.processes import until


@pytest.fixture
def told(caplog):
    """Outcomes that the log tells."""
    caplog.set_level(logging.INFO, "service.core.photo_log")
    return lambda: [record.fields["outcome"] for record in caplog.records if record.message == "a photo has ended"]


@pytest.fixture
async def shared():
    """A queue of photos, and its figures."""
    metrics = Metrics()
    async with memory(metrics=metrics) as queue:
        yield queue, metrics


@contextlib.asynccontextmanager
async def at_work(jobs, metrics, broker, *, grace_s=LONG_S, **times):
    """A runner on the queue for the duration of the block."""
    with Threads(2) as pool:
        gateway = Gateway(
            broker=broker,
            detector=FakeDetector(),
            manifest=tiny_manifest(),
            settings=Settings(),
            metrics=metrics,
            pool=pool,
            admission=Admission(4, 0),
        )
        stop = asyncio.Event()
        runner = asyncio.create_task(PhotoRunner(jobs, gateway, **{"pause_s": 0.01, "beat_s": 0.01, **times}).run(stop))
        yield gateway
        stop.set()
        _, late = await asyncio.wait({runner}, timeout=grace_s)
        await end_tasks(*late)
        if not late:
            runner.result()


async def admit(queue, job_id, data=None):
    await queue.admit(replace(photo(job_id), upload=Upload(encoded() if data is None else data)))


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ([], "succeeded"),
        ([InferenceFailed("no numbers")], "inference_failed"),
        ([KeyError("a bug")], "internal"),
        ([DependencyUnavailable("away"), DependencyUnavailable("away")], "succeeded"),
    ],
    ids=["restored", "failed", "bug", "begun_again"],
)
async def test_a_job_that_ends_here(shared, told, errors, outcome):
    queue, metrics = shared
    async with at_work(queue, metrics, UnsteadyBroker(*errors)):
        await admit(queue, "a")
        await end_of(queue, "a")
    assert told() == [outcome]
    assert photos_counted(metrics) == {outcome: 1}


@pytest.mark.parametrize(
    ("error", "data", "code", "is_ours"),
    [
        (None, None, "succeeded", False),
        (None, b"hello, this is a text", "unsupported_format", False),
        (InferenceFailed("no numbers"), None, "inference_failed", True),
        (KeyError("a bug"), None, "internal", True),
    ],
    ids=["restored", "refused", "failed", "bug"],
)
async def test_the_runner_s_span_tells_how_a_job_ended(shared, error, data, code, is_ours):
    queue, metrics = shared
    with kept_spans() as kept:
        async with at_work(queue, metrics, UnsteadyBroker(*filter(None, [error]))):
            await admit(queue, "a", data)
            await end_of(queue, "a")
    span = kept.named("runner")
    assert span.attributes["restore.outcome"] == code
    assert span.attributes.get("error.type", "succeeded") == code
    assert (span.status.status_code is StatusCode.ERROR) == is_ours


async def test_the_runner_s_span_tells_that_a_result_found_no_room(shared):
    queue, metrics = shared

    class Full:
        """The queue, but for results."""

        async def finish(self, _restoration):
            raise ImageTooLarge("the result is too large")

        def __getattr__(self, name):
            return getattr(queue, name)

    with kept_spans() as kept:
        async with at_work(Full(), metrics, EchoBroker()):
            await admit(queue, "a")
            assert await end_of(queue, "a") is JobState.FAILED
    assert kept.named("gateway").attributes["restore.outcome"] == "succeeded"
    assert kept.named("runner").attributes["restore.outcome"] == "image_too_large"


async def test_the_runner_s_span_of_a_job_that_is_withdrawn_is_no_error(shared):
    queue, metrics = shared
    broker = EchoBroker(hold=asyncio.Event())
    with kept_spans() as kept:
        async with at_work(queue, metrics, broker):
            await admit(queue, "a")
            await broker.submitted.wait()
            await queue.cancel("a")
    span = kept.named("runner")
    assert span.attributes["restore.outcome"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("way", ["cancel", "delete"])
async def test_a_job_that_its_caller_withdraws(shared, told, way):
    queue, metrics = shared
    broker = EchoBroker(hold=asyncio.Event())
    async with at_work(queue, metrics, broker):
        await admit(queue, "a")
        await broker.submitted.wait()
        await getattr(queue, way)("a")
        await asyncio.to_thread(until, lambda: told() == ["cancelled"])
    assert photos_counted(metrics) == {"cancelled": 1}


async def test_a_job_that_another_gateway_was_given_meanwhile(shared, told):
    """This one was frozen for longer than its lease, and the queue of faces withdraws what it had begun."""
    queue, metrics = shared

    class Lost:
        """The shared queue as seen by who has lost the lease without knowing."""

        beat = finish = fail = None

        def __getattr__(self, name):
            return getattr(queue, name)

    lost = Lost()
    is_lost = asyncio.Event()

    async def beat(job_ids):
        return set(job_ids) if is_lost.is_set() else set()

    async def no_outcome(*_arguments):
        return False

    lost.beat, lost.finish, lost.fail = beat, no_outcome, no_outcome
    hold = asyncio.Event()
    async with at_work(lost, metrics, EchoBroker(hold=hold)) as gateway:
        await admit(queue, "late")
        await asyncio.to_thread(until, lambda: gateway.admission.active == 1)
        hold.set()  # it brings a result that is not wanted any more
        await asyncio.to_thread(until, lambda: gateway.admission.active == 0)
    hold.clear()
    async with at_work(lost, metrics, EchoBroker(hold=hold)) as gateway:
        await admit(queue, "dropped")
        await asyncio.to_thread(until, lambda: gateway.admission.active == 1)
        is_lost.set()  # it learns so in the midst of it
        await asyncio.to_thread(until, lambda: gateway.admission.active == 0)
    assert (told(), photos_counted(metrics)) == ([], {})
    await queue.hand_back("late")
    await queue.hand_back("dropped")
    async with at_work(queue, metrics, EchoBroker()):
        for job_id in ("late", "dropped"):
            assert await end_of(queue, job_id) is JobState.SUCCEEDED
    assert (told(), photos_counted(metrics)) == (["succeeded"] * 2, {"succeeded": 2})


async def test_a_job_that_is_handed_back_has_not_ended(shared, told):
    queue, metrics = shared
    broker = EchoBroker(hold=asyncio.Event())
    async with at_work(queue, metrics, broker, grace_s=0):
        await admit(queue, "a")
        await broker.submitted.wait()
    assert (await queue.status("a")).state is JobState.QUEUED
    assert (told(), photos_counted(metrics)) == ([], {})


class Odd:
    """A queue of which the first calls of some methods meet an error that is not ours to know."""

    def __init__(self, queue, *methods, failures=1):
        self._queue = queue
        self._left = dict.fromkeys(methods, failures)

    def __getattr__(self, name):
        if self._left.get(name, 0) and name not in ("watch", "previews"):
            self._left[name] -= 1
            return self._fail
        return getattr(self._queue, name)

    async def _fail(self, *_arguments):
        raise ZeroDivisionError("a defect")


@pytest.mark.parametrize("method", ["take", "beat", "note", "show"])
async def test_an_unexpected_error_of_the_queue_is_no_end(shared, told, method):
    queue, metrics = shared
    async with at_work(Odd(queue, method), metrics, EchoBroker()):
        await admit(queue, "a")
        assert await end_of(queue, "a") is JobState.SUCCEEDED
    assert told() == ["succeeded"]


async def test_a_photo_that_is_withdrawn_goes_though_beating_met_a_bug(shared, told):
    queue, metrics = shared
    broker = EchoBroker(hold=asyncio.Event())
    async with at_work(Odd(queue, "beat", failures=3), metrics, broker):
        await admit(queue, "a")
        await broker.submitted.wait()
        await queue.cancel("a")
        await asyncio.to_thread(until, lambda: broker.withdrawn == ["a"])


async def test_an_outcome_that_meets_a_bug_is_a_failure_and_one_more_bug_is_left_to_the_lease(shared, told):
    queue, metrics = shared
    async with at_work(Odd(queue, "finish"), metrics, EchoBroker(), at_once=1):
        for job_id, state in (("a", JobState.FAILED), ("b", JobState.SUCCEEDED)):
            await admit(queue, job_id)
            assert await end_of(queue, job_id) is state
    assert (await queue.status("a")).failure.code == "internal"
    assert told() == ["internal", "succeeded"]
    async with at_work(Odd(queue, "finish", "fail"), metrics, EchoBroker(), at_once=1):
        for job_id in "cd":
            await admit(queue, job_id)
        assert await end_of(queue, "d") is JobState.SUCCEEDED
    assert (await queue.status("c")).state is JobState.RUNNING


async def test_a_photo_that_comes_again_while_it_is_under_way_is_restored_once(shared, told):
    """Its lease ran out while the queue could not be heard, and it was given to the same gateway."""
    queue, metrics = shared
    taken, hold = [], asyncio.Event()

    class Again(Odd):
        async def take(self, wait_s):
            if len(taken) == 1:
                taken.append(None)
                return taken[0]
            job = await queue.take(wait_s)
            taken.extend([job] if job else [])
            return job

    broker = EchoBroker(hold=hold)
    async with at_work(Again(queue), metrics, broker, at_once=2):
        await admit(queue, "a")
        await asyncio.to_thread(until, lambda: len(taken) == 2)
        hold.set()
        assert await end_of(queue, "a") is JobState.SUCCEEDED
        hold.clear()
        for job_id in "bc":
            await admit(queue, job_id)
        await asyncio.to_thread(until, lambda: {"b", "c"} <= broker.jobs.keys())  # both places are there
        hold.set()
    assert told() == ["succeeded"] * 3


async def test_a_direct_photo_that_meets_a_bug_has_failed(told):
    metrics = Metrics()
    async with memory() as queue, at_work(queue, metrics, UnsteadyBroker(KeyError("a bug"))) as gateway:
        with pytest.raises(KeyError):
            await gateway.restore(Upload(encoded()), RestoreOptions())
    assert told() == ["internal"]
    assert photos_counted(metrics) == {"internal": 1}


async def test_the_duration_counts_from_the_taking(shared, caplog):
    caplog.set_level(logging.INFO, "service.core.photo_log")
    queue, metrics = shared
    begin_s = time.perf_counter()
    async with at_work(queue, metrics, UnsteadyBroker(DependencyUnavailable("away"))):
        await admit(queue, "a")
        await end_of(queue, "a")
    (fields,) = [record.fields for record in caplog.records if record.name == "service.core.photo_log"]
    assert 10 <= fields["duration_ms"] <= (time.perf_counter() - begin_s) * 1000
    assert (fields["faces"], fields["width_px"]) == (1, 120)


async def test_a_caller_in_haste_counts_as_one_that_hangs_up():
    metrics = Metrics()
    async with memory() as queue, at_work(queue, metrics, EchoBroker(hold=asyncio.Event())) as gateway:
        with pytest.raises(DeadlineExceeded):
            await gateway.restore(Upload(encoded()), RestoreOptions(), until_s=time.time() + 0.2)
    assert photos_counted(metrics) == {"cancelled": 1}


@pytest.mark.parametrize("left_s", [None, 3600])
def test_a_photo_whose_caller_had_more_time_counts_as_late(left_s):
    metrics = Metrics()
    count_failed(metrics, DeadlineExceeded("too late"), None if left_s is None else time.time() + left_s)
    assert photos_counted(metrics) == {"deadline_exceeded": 1}
