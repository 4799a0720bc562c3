"""Random histories of the serving core: arrivals, step counts, withdrawals, deadlines, failures, a late stop."""

import asyncio
from dataclasses import dataclass
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.brokers.memory import MemoryBroker
from service.core.errors import Cancelled, DeadlineExceeded, InferenceFailed, QueueFull
from service.core.metrics import Metrics
from service.core.types import Lane, RestoredFace
from service.sampling.sampler import Sampler
from service.worker import Worker
from tests.bundle import NETWORKS, tiny_manifest
from tests.fakes import AnalyticBackend, face_job

WHITE = 255
PAST_S, FUTURE_S = 1.0, 4e9
LONG_S = 60.0


@dataclass(frozen=True)
class Photo:
    """What happens to one photo; `guilty` is the network that fails on its last face."""

    shades: tuple[int, ...]
    steps: tuple[int, ...]
    arrives: int
    lane: Lane
    expired: bool
    withdrawn_after: int | None
    guilty: str | None

    def faces(self, job_id):
        shades = [*self.shades[:-1], WHITE] if self.guilty else self.shades
        deadline_s = PAST_S if self.expired else FUTURE_S
        return [
            face_job(
                job_id,
                index,
                grey=shade,
                num_steps=self.steps[index],
                seed=shade,
                lane=self.lane,
                deadline_s=deadline_s,
                size_px=32,
            )
            for index, shade in enumerate(shades)
        ]


@st.composite
def photos(draw):
    num_faces = draw(st.integers(1, 4))
    return Photo(
        shades=tuple(draw(st.lists(st.integers(0, 150), min_size=num_faces, max_size=num_faces))),
        steps=tuple(draw(st.lists(st.integers(1, 5), min_size=num_faces, max_size=num_faces))),
        arrives=draw(st.integers(0, 30)),
        lane=draw(st.sampled_from(Lane)),
        expired=draw(st.integers(0, 9)) == 0,
        withdrawn_after=draw(st.none() | st.none() | st.integers(0, 40)),
        guilty=draw(st.none() | st.none() | st.sampled_from(NETWORKS)),
    )


def velocity(x_t, t):
    return 0.1 * np.cos(7 * x_t) * (1 + t)


def make_sampler(slots, backend):
    return Sampler(backend, tiny_manifest(32, sigma_s=(0.05,)), slots, metrics=Metrics())


@cache
def alone(shade, num_steps, face_index):
    """The sample of a face that shares no call with another."""

    async def restore():
        sampler = make_sampler(1, AnalyticBackend(velocity))
        sampler.admit(face_job("alone", face_index, grey=shade, num_steps=num_steps, seed=shade, size_px=32))
        while True:
            for outcome in await sampler.step():
                return outcome.result.sample.tobytes()

    return asyncio.run(restore())


async def ticks(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def live(photo, job_id, broker, endings):
    """The gateway's part: submit, await, perhaps withdraw; notes how the photo ended."""
    await ticks(photo.arrives)
    try:
        await broker.submit(photo.faces(job_id))
        waiting = asyncio.create_task(broker.results(job_id, LONG_S))
        if photo.withdrawn_after is not None:
            await ticks(photo.withdrawn_after)
            await broker.cancel(job_id)
        endings.append((job_id, await waiting))
    except (Cancelled, DeadlineExceeded, InferenceFailed, QueueFull) as error:
        endings.append((job_id, error))


class PausingBackend(AnalyticBackend):
    """Takes its time, each network as many turns of the event loop as it is told."""

    def __init__(self, pauses, guilty_networks):
        super().__init__(velocity, guilty=lambda network, row: network in guilty_networks and row.mean() > 0.8)
        self._pauses = pauses

    async def infer(self, network, inputs):
        await ticks(self._pauses[network])
        return await super().infer(network, inputs)


async def play(history, slots, room, pauses):
    """Run a history; returns how each photo ended."""
    broker = MemoryBroker(max_queued_faces=room, metrics=Metrics())
    sampler = make_sampler(slots, PausingBackend(pauses, {photo.guilty for photo in history}))
    stop = asyncio.Event()
    working = asyncio.create_task(Worker(broker, sampler, metrics=Metrics()).run(stop))
    endings = []
    await asyncio.gather(*(live(photo, str(index), broker, endings) for index, photo in enumerate(history)))
    stop.set()
    await asyncio.wait_for(working, LONG_S)
    assert sampler.free_slots == slots
    assert await broker.depth() == 0
    keys = {(str(index), 0): 0 for index in range(len(history))}
    assert await broker.beat(keys) == set(keys)
    return endings


@settings(max_examples=50)
@given(
    history=st.lists(photos(), min_size=1, max_size=8),
    slots=st.integers(1, 5),
    room=st.integers(2, 20),
    pauses=st.fixed_dictionaries({network: st.integers(0, 6) for network in NETWORKS}),
)
def test_every_photo_ends_once_and_as_it_should(history, slots, room, pauses):
    endings = asyncio.run(play(history, slots, room, pauses))
    assert sorted(job_id for job_id, _ in endings) == sorted(str(index) for index in range(len(history)))
    for job_id, ending in endings:
        photo = history[int(job_id)]
        if isinstance(ending, list):
            assert not photo.expired
            assert not photo.guilty
            assert [face.face_index for face in ending] == list(range(len(photo.shades)))
            for index, face in enumerate(ending):
                assert isinstance(face, RestoredFace)
                assert face.sample.tobytes() == alone(photo.shades[index], photo.steps[index], index)
        elif isinstance(ending, Cancelled):
            assert photo.withdrawn_after is not None
        elif isinstance(ending, DeadlineExceeded):
            assert photo.expired
        elif isinstance(ending, InferenceFailed):
            assert photo.guilty
        else:
            assert isinstance(ending, QueueFull)
