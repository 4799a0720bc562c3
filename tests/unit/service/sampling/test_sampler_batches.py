"""How faces share calls: sizes and padding, lanes and slots, and how soon a slot is free again."""

import asyncio

import numpy as np
import pytest

from service.core.errors import Cancelled, DeadlineExceeded, InferenceFailed
from service.core.metrics import Metrics
from service.core.types import Lane, RestoredFace
from service.sampling.sampler import Sampler
from tests.bundle import NETWORKS, tiny_manifest
from tests.fakes import AnalyticBackend, face_job

WHITE = 255


def velocity(x_t, t):
    return np.sin(5 * x_t) + t


def with_sizes(**sizes):
    """A manifest whose networks allow these batch sizes only."""
    manifest = tiny_manifest(sigma_s=(0.2,))
    networks = {
        name: spec.model_copy(update={"batch_sizes": sizes.get(name), "max_batch_size": max(sizes.get(name) or (4,))})
        for name, spec in manifest.networks.items()
    }
    return manifest.model_copy(update={"networks": networks})


def make_sampler(backend=None, *, slots=4, manifest=None, **parts):
    manifest = manifest or tiny_manifest(sigma_s=(0.0,))
    return Sampler(backend or AnalyticBackend(velocity), manifest, slots, metrics=Metrics(), **parts)


async def restore(sampler, *jobs):
    """All of them, admitted when there is room."""
    waiting, ended = list(jobs), {}
    while waiting or sampler.jobs:
        while waiting and sampler.free_slots:
            sampler.admit(waiting.pop(0))
        for outcome in await sampler.step():
            assert outcome.job.key not in ended
            ended[outcome.job.key] = outcome.result
    return [ended[job.key] for job in jobs]


class KeepingBackend(AnalyticBackend):
    """Keeps the inputs of every call."""

    def __init__(self):
        super().__init__(velocity)
        self.kept = []

    async def infer(self, network, inputs):
        self.kept.append((network, inputs))
        return await super().infer(network, inputs)


class OneAtATime(AnalyticBackend):
    """Makes one call at a time, and fails if a second one is asked for meanwhile."""

    concurrent = False
    calling = False

    async def infer(self, network, inputs):
        assert not self.calling
        self.calling = True
        try:
            return await super().infer(network, inputs)
        finally:
            self.calling = False


async def test_calls_have_allowed_sizes_and_faces_are_those_of_an_exact_call():
    jobs = [face_job(str(index), grey=17 * index, num_steps=1 + index, seed=index) for index in range(7)]
    exact = await restore(make_sampler(slots=7, manifest=with_sizes()), *jobs)
    backend = AnalyticBackend(velocity)
    sizes = {"estimator": (2, 8), "vae_encoder": (4, 8), "velocity": (3, 6), "vae_decoder": (5,)}
    padded = await restore(make_sampler(backend, slots=7, manifest=with_sizes(**sizes)), *jobs)
    for network in NETWORKS:
        assert set(backend.rows(network)) <= set(sizes[network])
    for face, other in zip(padded, exact, strict=True):
        assert face.sample.tobytes() == other.sample.tobytes()
        assert face.posterior_mean.tobytes() == other.posterior_mean.tobytes()


async def test_padding_repeats_a_real_row():
    backend = KeepingBackend()
    manifest = with_sizes(estimator=(4,), velocity=(4,))
    await restore(make_sampler(backend, manifest=manifest), face_job("a", grey=10), face_job("b", grey=250))
    for network, inputs in backend.kept:
        for value in inputs.values():
            if network in ("estimator", "velocity"):
                assert len(value) == 4
                assert (value[2:] == value[0]).all()


async def test_a_guilty_face_in_a_padded_call_fails_alone():
    backend = AnalyticBackend(velocity, guilty=lambda network, row: network == "velocity" and row.mean() > 0.9)
    jobs = [face_job("guilty", grey=WHITE), face_job("b"), face_job("c", grey=60)]
    guilty, *others = await restore(make_sampler(backend, manifest=with_sizes(velocity=(4,))), *jobs)
    assert isinstance(guilty, InferenceFailed)
    assert [type(face) for face in others] == [RestoredFace] * 2


async def test_a_failed_call_is_halved_until_the_guilty_face_is_alone():
    backend = AnalyticBackend(velocity, guilty=lambda network, row: network == "estimator" and row.mean() > 0.9)
    jobs = [face_job(str(index), grey=WHITE if index == 5 else 0) for index in range(8)]
    manifest = with_sizes(**dict.fromkeys(NETWORKS, tuple(range(1, 9))))
    results = await restore(make_sampler(backend, slots=8, manifest=manifest), *jobs)
    assert [index for index, result in enumerate(results) if isinstance(result, InferenceFailed)] == [5]
    assert backend.rows("estimator") == [8, 4, 4, 2, 1, 1, 2]


async def test_more_slots_than_a_call_takes_are_served_by_several_calls():
    backend = AnalyticBackend(velocity)
    jobs = [face_job(str(index), num_steps=1 + index % 3) for index in range(13)]
    assert all(isinstance(face, RestoredFace) for face in await restore(make_sampler(backend, slots=13), *jobs))
    assert max(rows for _, rows in backend.calls) == 4


async def test_short_faces_are_done_before_long_ones_that_came_first():
    backend = OneAtATime(velocity)
    sampler = make_sampler(backend, slots=8)
    for index in range(4):
        sampler.admit(face_job("long", index, num_steps=20))
    while backend.rows("velocity") != [4] * 3:
        await sampler.step()
    for index in range(4):
        sampler.admit(face_job("short", index, num_steps=3))
    order = []
    while sampler.jobs:
        order += [outcome.job.job_id for outcome in await sampler.step()]
    assert order == ["short"] * 4 + ["long"] * 4


async def test_batch_faces_never_keep_an_interactive_face_out():
    sampler = make_sampler(slots=2)
    for index in range(2):
        sampler.admit(face_job("batch", index, lane=Lane.BATCH))
    assert (sampler.free_slots, sampler.free_interactive_slots) == (0, 2)
    with pytest.raises(ValueError, match="lane batch"):
        sampler.admit(face_job("more", lane=Lane.BATCH))
    for index in range(2):
        sampler.admit(face_job("interactive", index))
    with pytest.raises(ValueError, match="lane interactive"):
        sampler.admit(face_job("more"))
    while sampler.jobs:
        await sampler.step()
    assert (sampler.free_slots, sampler.free_interactive_slots) == (2, 2)


async def test_interactive_faces_take_the_rows_of_batch_faces_and_are_done_first():
    backend = OneAtATime(velocity)
    sampler = make_sampler(backend)
    for index in range(4):
        sampler.admit(face_job("batch", index, num_steps=20, lane=Lane.BATCH))
    while len(backend.rows("velocity")) < 2:
        await sampler.step()
    for index in range(3):
        sampler.admit(face_job("interactive", index, num_steps=15))
    order = []
    while sampler.jobs:
        order += [outcome.job.job_id for outcome in await sampler.step()]
    assert order == ["interactive"] * 3 + ["batch"] * 4


async def test_with_one_call_at_a_time_a_newcomer_is_in_the_very_next_step():
    backend = OneAtATime(velocity)
    sampler = make_sampler(backend)
    sampler.admit(face_job("early", num_steps=6))
    while len(backend.rows("velocity")) < 3:
        await sampler.step()
    sampler.admit(face_job("late", num_steps=3))
    while sampler.jobs:
        await sampler.step()
    assert backend.rows("velocity") == [1, 1, 1, 2, 2, 2]


async def inside(network, sampler, backend, gate):
    """Step until a call of this network is under way; returns the step that waits for its end."""
    backend.called[network].clear()
    gate.clear()
    called = asyncio.create_task(backend.called[network].wait())
    while True:
        step = asyncio.create_task(sampler.step())
        await asyncio.wait({step, called}, return_when=asyncio.FIRST_COMPLETED)
        if called.done():
            return step


def gated(network):
    gate = asyncio.Event()
    return gate, AnalyticBackend(velocity, gates={network: gate})


@pytest.mark.parametrize("network", NETWORKS)
async def test_a_withdrawn_face_is_gone_when_the_call_it_is_in_has_ended(network):
    gate, backend = gated(network)
    sampler = make_sampler(backend, slots=1)
    sampler.admit(face_job(num_steps=5))
    step = await inside(network, sampler, backend, gate)
    sampler.withdraw({("photo", 0)})
    assert sampler.free_slots == 0
    calls = len(backend.calls)
    gate.set()
    (outcome,) = await step
    assert isinstance(outcome.result, Cancelled)
    assert sampler.free_slots == 1
    assert len(backend.calls) <= calls + (network == "estimator")  # entering is one call of two networks


@pytest.mark.parametrize("network", NETWORKS)
async def test_a_face_whose_deadline_passes_inside_a_call_is_gone_when_that_has_ended(network):
    now_s = [100.0]
    gate, backend = gated(network)
    sampler = make_sampler(backend, slots=1, clock=lambda: now_s[0])
    sampler.admit(face_job(num_steps=5, deadline_s=110.0))
    step = await inside(network, sampler, backend, gate)
    now_s[0] = 110.0
    gate.set()
    (outcome,) = await step
    assert isinstance(outcome.result, RestoredFace if network == "vae_decoder" else DeadlineExceeded)
    assert sampler.free_slots == 1


async def test_a_parked_face_that_is_withdrawn_is_gone_at_once():
    gate, backend = gated("velocity")
    sampler = make_sampler(backend, slots=8)
    for index in range(5):
        sampler.admit(face_job("photo", index, num_steps=5 + index))
    step = await inside("velocity", sampler, backend, gate)
    sampler.withdraw({("photo", 4)})
    step.cancel()
    (outcome,) = await sampler.step()
    assert (outcome.job.face_index, type(outcome.result)) == (4, Cancelled)
    await sampler.abandon()
