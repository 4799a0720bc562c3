"""Random histories of the serving core, in virtual time: arrivals, lanes, steps, withdrawals, deadlines, failures."""

import asyncio
from dataclasses import dataclass
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bench import virtual_time
from service.brokers.memory import MemoryBroker
from service.core.errors import Cancelled, DeadlineExceeded, InferenceFailed, QueueFull
from service.core.metrics import Metrics
from service.core.types import Lane, RestoredFace
from service.sampling.sampler import Sampler
from service.worker import Worker
from tests.bundle import NETWORKS, tiny_manifest
from tests.fakes import AnalyticBackend, face_job

WHITE = 255
LONG_S = 50.0
SIZE_PX = 32


@dataclass(frozen=True)
class Photo:
    """What happens to one photo, in milliseconds; `guilty` is the network that fails on its last face."""

    shades: tuple[int, ...]
    steps: tuple[int, ...]
    arrives_ms: int
    lane: Lane
    deadline_after_ms: int | None
    withdrawn_after_ms: int | None
    guilty: str | None

    def faces(self, job_id, now_s):
        shades = [*self.shades[:-1], WHITE] if self.guilty else self.shades
        after_ms = self.deadline_after_ms
        return [
            face_job(
                job_id,
                index,
                grey=shade,
                num_steps=self.steps[index],
                seed=shade,
                lane=self.lane,
                deadline_s=None if after_ms is None else now_s + after_ms / 1000,
                size_px=SIZE_PX,
            )
            for index, shade in enumerate(shades)
        ]


@st.composite
def photos(draw):
    num_faces = draw(st.integers(1, 4))
    return Photo(
        shades=tuple(draw(st.lists(st.integers(0, 150), min_size=num_faces, max_size=num_faces))),
        steps=tuple(draw(st.lists(st.integers(1, 5), min_size=num_faces, max_size=num_faces))),
        arrives_ms=draw(st.integers(0, 100)),
        lane=draw(st.sampled_from(Lane)),
        deadline_after_ms=draw(st.none() | st.none() | st.integers(0, 200)),
        withdrawn_after_ms=draw(st.none() | st.none() | st.integers(0, 200)),
        guilty=draw(st.none() | st.none() | st.sampled_from(NETWORKS)),
    )


def velocity(x_t, t):
    return 0.1 * np.cos(7 * x_t) * (1 + t)


class SlowBackend(AnalyticBackend):
    """Takes as many milliseconds as it is told, each network its own; side by side or one call at a time."""

    def __init__(self, calls_ms, concurrent, guilty_networks=frozenset()):
        super().__init__(velocity, guilty=lambda network, row: network in guilty_networks and row.mean() > 0.8)
        self.concurrent = concurrent
        self._calls_ms = calls_ms
        self._turn = asyncio.Lock()

    async def infer(self, network, inputs):
        if self.concurrent:
            await asyncio.sleep(self._calls_ms[network] / 1000)
            return await super().infer(network, inputs)
        async with self._turn:
            await asyncio.sleep(self._calls_ms[network] / 1000)
            return await super().infer(network, inputs)


class Core:
    """Queue, worker and sampler in virtual time."""

    def __init__(self, backend, slots, *, room=1000, sizes=None):
        loop = asyncio.get_running_loop()
        manifest = tiny_manifest(SIZE_PX, sigma_s=(0.05,))
        changed = {"batch_sizes": sizes, "max_batch_size": max(sizes or (4,))}
        networks = {name: spec.model_copy(update=changed) for name, spec in manifest.networks.items()}
        manifest = manifest.model_copy(update={"networks": networks})
        self.backend = backend
        self.slots = slots
        self.broker = MemoryBroker(max_queued_faces=room, metrics=Metrics(), clock=loop.time)
        self.sampler = Sampler(backend, manifest, slots, metrics=Metrics(), clock=loop.time)
        self._stop = asyncio.Event()
        self._working = loop.create_task(Worker(self.broker, self.sampler, metrics=Metrics()).run(self._stop))

    async def restore(self, *faces):
        await self.broker.submit(faces)
        return await self.broker.results(faces[0].job_id, LONG_S)

    async def end(self):
        """Everything has ended, and nothing is left."""
        self._stop.set()
        await self._working
        assert self.sampler.free_slots == self.sampler.free_interactive_slots == self.slots
        assert await self.broker.depth() == 0


@cache
def alone(shade, num_steps, face_index):
    """The sample of a face that shares no call with another."""

    async def restore():
        core = Core(AnalyticBackend(velocity), 1)
        job = face_job("alone", face_index, grey=shade, num_steps=num_steps, seed=shade, size_px=SIZE_PX)
        (face,) = await core.restore(job)
        await core.end()
        return face.sample.tobytes()

    return virtual_time.run(restore())


async def live(photo, job_id, broker, endings):
    """The gateway's part: submit, await, perhaps withdraw; notes how the photo ended."""
    await asyncio.sleep(photo.arrives_ms / 1000)
    try:
        await broker.submit(photo.faces(job_id, asyncio.get_running_loop().time()))
        waiting = asyncio.create_task(broker.results(job_id, LONG_S))
        if photo.withdrawn_after_ms is not None:
            await asyncio.sleep(photo.withdrawn_after_ms / 1000)
            await broker.cancel(job_id)
        endings.append((job_id, await waiting))
    except (Cancelled, DeadlineExceeded, InferenceFailed, QueueFull) as error:
        endings.append((job_id, error))


async def play(history, slots, room, calls_ms, concurrent, sizes):
    """Run a history; returns how each photo ended."""
    core = Core(SlowBackend(calls_ms, concurrent, {photo.guilty for photo in history}), slots, room=room, sizes=sizes)
    endings = []
    await asyncio.gather(*(live(photo, str(index), core.broker, endings) for index, photo in enumerate(history)))
    await core.end()
    assert {rows for _, rows in core.backend.calls} <= set(sizes or range(5))
    keys = {(str(index), 0): 0 for index in range(len(history))}
    assert await core.broker.beat(keys) == set(keys)
    return endings


CALLS_MS = st.fixed_dictionaries({network: st.integers(1, 20) for network in NETWORKS})
SIZES = st.sampled_from([None, (1, 2, 4), (1, 4), (3,), (2, 5)])


@settings(max_examples=50)
@given(
    history=st.lists(photos(), min_size=1, max_size=8),
    slots=st.integers(1, 6),
    room=st.integers(2, 20),
    calls_ms=CALLS_MS,
    concurrent=st.booleans(),
    sizes=SIZES,
)
def test_every_photo_ends_once_and_as_it_should(history, slots, room, calls_ms, concurrent, sizes):
    endings = virtual_time.run(play(history, slots, room, calls_ms, concurrent, sizes))
    assert sorted(job_id for job_id, _ in endings) == sorted(str(index) for index in range(len(history)))
    for job_id, ending in endings:
        photo = history[int(job_id)]
        if isinstance(ending, list):
            assert photo.deadline_after_ms != 0
            assert not photo.guilty
            assert [face.face_index for face in ending] == list(range(len(photo.shades)))
            for index, face in enumerate(ending):
                assert isinstance(face, RestoredFace)
                assert face.sample.tobytes() == alone(photo.shades[index], photo.steps[index], index)
        elif isinstance(ending, Cancelled):
            assert photo.withdrawn_after_ms is not None
        elif isinstance(ending, DeadlineExceeded):
            assert photo.deadline_after_ms is not None
        elif isinstance(ending, InferenceFailed):
            assert photo.guilty
        else:
            assert isinstance(ending, QueueFull)


@settings(max_examples=40)
@given(
    batch_steps=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    num_steps=st.integers(1, 20),
    arrives_ms=st.integers(0, 400),
    slots=st.integers(1, 6),
    calls_ms=CALLS_MS,
    sizes=SIZES,
)
def test_an_interactive_photo_hardly_waits_behind_batch_work(
    batch_steps, num_steps, arrives_ms, slots, calls_ms, sizes
):
    async def calls_of_its_stay():
        core = Core(SlowBackend(calls_ms, concurrent=False), slots, sizes=sizes)
        jobs = [
            face_job(str(index), num_steps=steps, lane=Lane.BATCH, size_px=SIZE_PX)
            for index, steps in enumerate(batch_steps)
        ]
        batch = [asyncio.create_task(core.restore(job)) for job in jobs]
        await asyncio.sleep(arrives_ms / 1000)
        before = len(core.backend.rows("velocity"))
        await core.restore(face_job("now", num_steps=num_steps, size_px=SIZE_PX))
        calls = len(core.backend.rows("velocity")) - before
        await asyncio.gather(*batch)
        await core.end()
        return calls

    # One call may have begun, and one may go by before each of entering and leaving. A call of one row is the batch
    # lane's every fifth time.
    assert virtual_time.run(calls_of_its_stay()) <= num_steps + num_steps // 4 + 4


@settings(max_examples=20)
@given(
    interactive_steps=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    num_steps=st.integers(1, 10),
    slots=st.integers(1, 6),
    calls_ms=CALLS_MS,
)
def test_a_batch_photo_gets_through_however_busy_the_interactive_lane_is(interactive_steps, num_steps, slots, calls_ms):
    async def calls_of_its_stay():
        core = Core(SlowBackend(calls_ms, concurrent=False), slots)
        done = asyncio.Event()

        async def keep_busy(name):
            turn = 0
            while not done.is_set():
                steps = interactive_steps[turn % len(interactive_steps)]
                await core.restore(face_job(f"{name}.{turn}", num_steps=steps, size_px=SIZE_PX))
                turn += 1

        busy = [asyncio.create_task(keep_busy(name)) for name in range(2 * slots)]
        await asyncio.sleep(0.5)
        before = len(core.backend.rows("velocity"))
        await core.restore(face_job("batch", num_steps=num_steps, lane=Lane.BATCH, size_px=SIZE_PX))
        calls = len(core.backend.rows("velocity")) - before
        done.set()
        await asyncio.gather(*busy)
        await core.end()
        return calls

    longest = max(interactive_steps)
    # At most four others are handed out first, each when a face of at most `longest` steps has left; then every fifth
    # row is its own.
    assert virtual_time.run(calls_of_its_stay()) <= 5 * (2 * longest + 4) + 5 * num_steps + 40
