import asyncio
import contextlib
import logging

import numpy as np
import pytest

from service.bench import virtual_time
from service.brokers.memory import MemoryBroker
from service.core.errors import Cancelled, DeadlineExceeded, DependencyUnavailable, Draining, InferenceFailed
from service.core.metrics import Metrics
from service.core.tasks import end_tasks
from service.sampling.sampler import Sampler
from service.worker import Worker
from tests.bundle import NETWORKS, tiny_manifest
from tests.fakes import AnalyticBackend, CutOff, face_job

WHITE = 255
LONG_S = 30.0


class Running:
    """A worker at work: its queue, its backend, and how to stop it."""

    def __init__(self, backend, broker, slots, **times):
        self.metrics = Metrics()
        self.backend = backend or AnalyticBackend()
        self.broker = broker or MemoryBroker(max_queued_faces=64, metrics=self.metrics)
        self.sampler = Sampler(self.backend, tiny_manifest(), slots, metrics=self.metrics)
        self.stop = asyncio.Event()
        worker = Worker(self.broker, self.sampler, metrics=self.metrics, pause_s=0.01, **times)
        self.task = asyncio.create_task(worker.run(self.stop))

    async def cut_short(self):
        """What happens to a worker whose time is over."""
        self.stop.set()
        await end_tasks(self.task)

    async def restore(self, *jobs):
        await self.broker.submit(jobs)
        return await self.broker.results(jobs[0].job_id, LONG_S)

    def metric(self, line):
        return line in self.metrics.render().decode().splitlines()


@contextlib.asynccontextmanager
async def running(backend=None, *, broker=None, slots=4, **times):
    made = Running(backend, broker, slots, **times)
    yield made
    if not made.task.done():
        made.stop.set()
        await asyncio.wait_for(made.task, LONG_S)
    assert made.sampler.free_slots == slots


async def test_a_photo_comes_back_restored():
    async with running() as parts:
        faces = await parts.restore(face_job(face_index=0, grey=51), face_job(face_index=1, grey=204, num_steps=5))
    assert [face.sample.mean() for face in faces] == pytest.approx([0.2, 0.8], abs=0.03)
    assert [face.posterior_mean.mean() for face in faces] == pytest.approx([0.2, 0.8])
    assert set(faces[0].timings_ms) == {"queue_wait", *NETWORKS}


async def test_more_faces_than_slots_take_turns():
    async with running(slots=2) as parts:
        faces = await parts.restore(*(face_job(face_index=index) for index in range(7)))
        assert len(faces) == 7
        assert max(rows for _, rows in parts.backend.calls) <= 2


def test_a_worker_has_no_limit_of_its_own_to_the_time_in_which_it_ends():
    """The operator's grace time may be longer than anybody thought."""

    async def stopped_long_before_its_call_ends():
        gate = asyncio.Event()
        async with running(AnalyticBackend(gates={"velocity": gate})) as parts:
            await parts.broker.submit([face_job()])
            await parts.backend.called["velocity"].wait()
            parts.stop.set()
            await asyncio.sleep(24 * 3600.0)
            gate.set()
            assert len(await parts.broker.results("photo", LONG_S)) == 1

    virtual_time.run(stopped_long_before_its_call_ends())


async def test_stopping_finishes_what_was_taken_and_leaves_the_rest():
    gate = asyncio.Event()
    async with running(AnalyticBackend(gates={"velocity": gate})) as parts:
        taken = asyncio.create_task(parts.restore(face_job("taken")))
        await parts.backend.called["velocity"].wait()
        parts.stop.set()
        await parts.broker.submit([face_job("waits")])
        gate.set()
        await asyncio.wait_for(parts.task, LONG_S)
        assert len(await taken) == 1
        assert await parts.broker.depth() == 1


async def test_a_withdrawn_photo_frees_its_slots():
    gate = asyncio.Event()
    async with running(AnalyticBackend(gates={"velocity": gate}), slots=2) as parts:
        waiting = asyncio.create_task(parts.restore(face_job("gone", 0), face_job("gone", 1)))
        await parts.backend.called["velocity"].wait()
        await parts.broker.cancel("gone")
        with pytest.raises(Cancelled):
            await waiting
        gate.set()
        assert len(await parts.restore(face_job("next"))) == 1
        assert parts.backend.rows("vae_decoder") == [1]
        assert parts.metric('restore_cancelled_total{phase="running"} 2.0')


async def test_a_photo_that_is_begun_again_waits_until_its_withdrawn_face_has_left():
    """With calls side by side, what another attempt left is in a long one while others turn."""
    gate = asyncio.Event()
    async with running(AnalyticBackend(gates={"vae_decoder": gate})) as parts:
        other = asyncio.create_task(parts.restore(face_job("other", num_steps=20)))
        before = asyncio.create_task(parts.restore(face_job("again", num_steps=1)))
        await parts.backend.called["vae_decoder"].wait()
        await parts.broker.cancel("again")
        again = asyncio.create_task(parts.restore(face_job("again", grey=51)))
        with pytest.raises(Cancelled):
            await before
        while parts.sampler.steps_done["other", 0] < 20:  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0)
        gate.set()
        ((face,), (_,)) = await asyncio.gather(again, other)
        assert face.posterior_mean.mean() == pytest.approx(0.2)


async def test_a_worker_that_cannot_call_the_networks_leaves_the_faces_to_others(caplog):
    """It would fail one after another, at once, which workers with networks could restore."""
    async with running(CutOff(AnalyticBackend())) as parts:
        with pytest.raises(DependencyUnavailable):
            await parts.restore(face_job("first"))
        await parts.broker.submit([face_job("left")])
        for _ in range(2):
            parts.backend.asked.clear()
            await parts.backend.asked.wait()
        assert await parts.broker.depth() == 1
        async with running(broker=parts.broker):
            assert len(await parts.broker.results("left", LONG_S)) == 1
        back = asyncio.create_task(parts.restore(face_job("back")))
        parts.backend.away = False
        assert len(await back) == 1
    told = [record.message for record in caplog.records if "what runs the networks" in record.message]
    assert len(told) == 2


async def test_a_photo_that_waited_too_long_is_not_begun():
    async with running() as parts:
        with pytest.raises(DeadlineExceeded):
            await parts.restore(face_job(deadline_s=1.0))
        assert parts.backend.calls == []
        assert parts.metric('restore_cancelled_total{phase="queued"} 1.0')


async def test_a_face_that_does_not_fit_the_bundle_fails_alone():
    async with running() as parts:
        right, wrong = await asyncio.gather(
            parts.restore(face_job("right")), parts.restore(face_job("wrong", size_px=32)), return_exceptions=True
        )
        assert len(right) == 1
        assert isinstance(wrong, InferenceFailed)


async def test_a_face_that_breaks_a_network_fails_its_photo_only():
    backend = AnalyticBackend(guilty=lambda network, row: network == "estimator" and row.mean() > 0.9)
    async with running(backend) as parts:
        bad = [face_job("bad", 0), face_job("bad", 1, grey=WHITE)]
        right, wrong = await asyncio.gather(
            parts.restore(face_job("right")), parts.restore(*bad), return_exceptions=True
        )
        assert len(right) == 1
        assert isinstance(wrong, InferenceFailed)
        assert parts.metric('restore_faces_total{outcome="inference_failed"} 1.0')


async def test_an_unexpected_error_fails_the_faces_in_flight_and_not_the_worker(caplog):
    defect = ZeroDivisionError("a defect")
    backend = AnalyticBackend(guilty=lambda network, row: network == "velocity" and row.mean() > 0.9, error=defect)
    async with running(backend) as parts:
        results = await asyncio.gather(
            parts.restore(face_job("a", num_steps=20)), parts.restore(face_job("b", grey=WHITE)), return_exceptions=True
        )
        assert [type(result) for result in results] == [InferenceFailed] * 2
        assert "defect" not in results[0].detail
        assert len(await parts.restore(face_job("next"))) == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info[1] is defect


class FlakyBroker(MemoryBroker):
    """A queue whose server is away for the first calls of one method, or that meets another error then."""

    def __init__(self, method, failures, error=None):
        super().__init__(max_queued_faces=64, metrics=Metrics())
        self._method = method
        self._failures = failures
        self._error = error or DependencyUnavailable("the queue does not answer")
        self.back = asyncio.Event()
        self.taken_before = 0

    def _fail_now(self, method):
        if method == self._method and self._failures:
            self._failures -= 1
            if not self._failures:
                self.back.set()
            raise self._error

    async def take(self, max_items, wait_s):
        self._fail_now("take")
        jobs = await super().take(max_items, wait_s)
        self.taken_before += 0 if self.back.is_set() else len(jobs)
        return jobs

    async def beat(self, steps_done):
        self._fail_now("beat")
        return await super().beat(steps_done)

    async def complete(self, result):
        self._fail_now("complete")
        await super().complete(result)

    async def fail(self, job, error):
        self._fail_now("fail")
        await super().fail(job, error)

    async def hand_back(self, jobs):
        self._fail_now("hand_back")
        await super().hand_back(jobs)


@pytest.mark.parametrize("method", ["take", "beat", "complete"])
async def test_nothing_is_lost_while_the_queue_is_away(method, caplog):
    async with running(broker=FlakyBroker(method, 3)) as parts:
        assert len(await parts.restore(face_job("a"), face_job("a", 1))) == 2
        assert parts.broker.back.is_set()
        assert parts.backend.rows("vae_decoder") == [2]
    assert caplog.messages[0].startswith("the queue does not answer")
    assert caplog.messages[1:] == ["the queue answers again"]


async def test_a_failure_is_told_when_the_queue_is_back():
    backend = AnalyticBackend(guilty=lambda network, row: row.mean() > 0.9)
    async with running(backend, broker=FlakyBroker("fail", 2)) as parts:
        with pytest.raises(InferenceFailed):
            await parts.restore(face_job(grey=WHITE))
        assert len(await parts.restore(face_job("next"))) == 1


async def test_results_that_the_queue_has_not_heard_of_take_the_room_of_their_faces():
    async with running(broker=FlakyBroker("complete", 20), slots=2) as parts:
        await asyncio.gather(*(parts.restore(face_job(str(number), num_steps=1)) for number in range(6)))
        assert parts.broker.taken_before <= 2


@pytest.mark.parametrize("method", ["take", "beat", "complete"])
async def test_an_unexpected_error_of_the_queue_fails_what_was_in_flight_and_no_more(method, caplog):
    async with running(broker=FlakyBroker(method, 1, ZeroDivisionError("a defect"))) as parts:
        (first,) = await asyncio.gather(parts.restore(face_job("first")), return_exceptions=True)
        assert isinstance(first, list if method == "take" else InferenceFailed)
        assert len(await parts.restore(face_job("next"))) == 1
        assert parts.metric('restore_faces_total{outcome="inference_failed"} 1.0') == (method != "take")
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


async def test_a_failure_that_cannot_be_told_costs_no_other_photo():
    backend = AnalyticBackend(guilty=lambda network, row: row.mean() > 0.9)
    async with running(backend, broker=FlakyBroker("fail", 2, ZeroDivisionError("a defect"))) as parts:
        await parts.broker.submit([face_job("lost", grey=WHITE)])
        await parts.broker.back.wait()
        assert len(await parts.restore(face_job("next"))) == 1


async def test_faces_that_came_with_one_that_is_not_taken_back_are_restored():
    gate = asyncio.Event()
    broker = FlakyBroker("hand_back", 1)
    async with running(AnalyticBackend(gates={"vae_decoder": gate}), broker=broker) as parts:
        other = asyncio.create_task(parts.restore(face_job("other", num_steps=20)))
        before = asyncio.create_task(parts.restore(face_job("again", num_steps=1)))
        await parts.backend.called["vae_decoder"].wait()
        await broker.cancel("again")
        await broker.submit([face_job("again")])
        beside = asyncio.create_task(parts.restore(face_job("beside", num_steps=1)))
        with pytest.raises(Cancelled):
            await before
        await broker.back.wait()
        gate.set()
        assert [len(faces) for faces in await asyncio.gather(other, beside)] == [1, 1]


async def test_what_has_ended_while_the_queue_was_away_is_handed_back_at_the_end():
    broker = FlakyBroker("complete", 2)
    async with running(broker=broker) as parts:
        await parts.broker.submit([face_job(num_steps=1)])
        await broker.back.wait()
        await parts.cut_short()
        assert [job.key for job in await parts.broker.take(4, 0)] == [("photo", 0)]


async def test_a_queue_that_is_away_at_the_end_holds_nobody_up():
    gate = asyncio.Event()
    broker = FlakyBroker("hand_back", 1)
    async with running(AnalyticBackend(gates={"velocity": gate}), broker=broker) as parts:
        await parts.broker.submit([face_job()])
        await parts.backend.called["velocity"].wait()
        await parts.cut_short()
    assert broker.back.is_set()


async def test_what_is_not_finished_in_time_is_handed_back():
    gate = asyncio.Event()
    async with running(AnalyticBackend(gates={"velocity": gate})) as parts:
        await parts.broker.submit([face_job()])
        await parts.backend.called["velocity"].wait()
        await parts.cut_short()
        assert [job.key for job in await parts.broker.take(4, 0)] == [("photo", 0)]


@pytest.mark.parametrize("error", [None, DependencyUnavailable("no answer"), ZeroDivisionError("a defect")], ids=str)
async def test_leases_are_renewed_while_a_call_lasts(error):
    gate = asyncio.Event()

    class Counting(MemoryBroker):
        left = 4  # one of the turn that begins the call, then those of the watch

        async def beat(self, steps_done):
            self.left -= 1
            if not self.left:
                gate.set()
            if self.left == 2 and error:
                raise error
            return await super().beat(steps_done)

    broker = Counting(max_queued_faces=4, metrics=Metrics())
    async with running(AnalyticBackend(gates={"estimator": gate}), broker=broker, beat_s=0.01) as parts:
        waiting = asyncio.create_task(parts.restore(face_job()))
        await parts.backend.called["estimator"].wait()
        assert len(await waiting) == 1


async def test_a_worker_that_is_cancelled_leaves_no_call_behind():
    gate = asyncio.Event()
    parts = Running(AnalyticBackend(gates={"estimator": gate}), None, 4)
    await parts.broker.submit([face_job()])
    await parts.backend.called["estimator"].wait()
    parts.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await parts.task
    assert parts.sampler.free_slots == 4
    assert {task.get_coro().__name__ for task in asyncio.all_tasks()} == {
        "test_a_worker_that_is_cancelled_leaves_no_call_behind"
    }
    await parts.broker.close()
    with pytest.raises(Draining):
        await parts.restore(face_job("late"))


async def test_company_does_not_change_a_face():
    def velocity(x_t, t):
        return np.sin(5 * x_t) + t

    jobs = [face_job(str(index), grey=20 * index, num_steps=1 + index, seed=index) for index in range(12)]
    async with running(AnalyticBackend(velocity), slots=5) as parts:
        together = await asyncio.gather(*(parts.restore(job) for job in jobs))
    async with running(AnalyticBackend(velocity), slots=1) as parts:
        for job, (face,) in zip(jobs, together, strict=True):
            (alone,) = await parts.restore(job)
            assert face.sample.tobytes() == alone.sample.tobytes()
