import asyncio
import time

import numpy as np
import pytest

from service.core.errors import Cancelled, DeadlineExceeded, DependencyUnavailable, InferenceFailed, ManifestMismatch
from service.core.manifest import LatentSpec
from service.core.metrics import Metrics
from service.core.types import FaceJob, RestoredFace
from service.sampling.noise import source_noise
from service.sampling.sampler import Sampler
from tests.bundle import NETWORKS, tiny_manifest
from tests.fakes import AnalyticBackend, face_job

WHITE = 255


def make_sampler(backend=None, *, slots=4, metrics=None, clock=time.time, **manifest):
    return Sampler(
        backend or AnalyticBackend(),
        tiny_manifest(**({"sigma_s": (0.0,)} | manifest)),
        slots,
        metrics=metrics or Metrics(),
        clock=clock,
    )


async def finish(sampler):
    """Step until nothing is left: results by (job, face)."""
    ended = {}
    while sampler.jobs:
        for outcome in await sampler.step():
            key = outcome.job.job_id, outcome.job.face_index
            assert key not in ended
            ended[key] = outcome.result
    return ended


async def restore(sampler, *jobs):
    for job in jobs:
        sampler.admit(job)
    ended = await finish(sampler)
    return [ended[job.job_id, job.face_index] for job in jobs]


def guilty_white(network):
    """Fails rows of the white face; picture and latent are brighter than those of every other face."""
    return lambda called, row: called == network and row.mean() > 0.9


def cubic(x_t, t):
    return 0 * x_t + 0.3 * t**2


@pytest.mark.parametrize("num_steps", [1, 2, 5])
async def test_the_sample_is_the_closed_form(num_steps):
    (face,) = await restore(make_sampler(AnalyticBackend(cubic)), face_job(grey=102, num_steps=num_steps))
    travelled = sum(0.3 * (k / num_steps) ** 2 for k in range(num_steps)) / num_steps
    assert face.sample.shape == (64, 64, 3)
    assert face.sample.dtype == np.float32
    np.testing.assert_allclose(face.sample, 0.4 + travelled / 2, atol=1e-6)


async def test_the_posterior_mean_is_the_estimators_picture():
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (face,) = await restore(make_sampler(), FaceJob("photo", 3, crop, 1, 0))
    np.testing.assert_allclose(face.posterior_mean, crop / np.float32(255), atol=1e-7)
    assert (face.job_id, face.face_index) == ("photo", 3)


async def test_the_source_has_the_faces_own_noise():
    jobs = [face_job("a", 0, seed=1), face_job("a", 1, seed=1), face_job("b", 0, seed=2)]
    faces = await restore(make_sampler(sigma_s=(0.25,)), *jobs)
    for job, face in zip(jobs, faces, strict=True):
        noise = source_noise((1, 8, 8), job.seed, job.face_index)
        expected = (2 * 128 / 255 - 1 + 0.25 * noise[0] + 1) / 2
        np.testing.assert_allclose(face.sample[::8, ::8, 0], expected.clip(0, 1), atol=1e-6)


async def test_the_flow_works_on_normalised_latents():
    seen = []

    def velocity(x_t, t):
        seen.append(x_t.copy())
        return 0 * x_t + 1

    latent = LatentSpec(channels=1, downscale=8, mean=(0.5,), std=(0.25,))
    (face,) = await restore(make_sampler(AnalyticBackend(velocity), latent=latent), face_job(grey=204, num_steps=1))
    np.testing.assert_allclose(seen[0], (0.6 - 0.5) / 0.25, atol=1e-6)
    np.testing.assert_allclose(face.sample, (0.6 + 0.25 + 1) / 2, atol=1e-6)


async def test_the_sample_stays_in_range():
    (bright,) = await restore(make_sampler(AnalyticBackend(lambda x_t, t: 0 * x_t + 9)), face_job())
    assert (bright.sample == 1).all()


async def test_in_pixel_space_the_flow_starts_at_the_posterior_mean():
    backend = AnalyticBackend(lambda x_t, t: 0 * x_t + 0.2)
    pixel = {
        "space": "pixel",
        "latent": LatentSpec(channels=3, downscale=1, mean=(0.0,) * 3, std=(1.0,) * 3),
        "networks": {name: tiny_manifest().networks[name] for name in ("estimator", "velocity")},
    }
    (face,) = await restore(make_sampler(backend, sigma_s=(0.1,), **pixel), face_job(grey=102, num_steps=4))
    noise = source_noise((3, 64, 64), 7, 0).transpose(1, 2, 0)
    np.testing.assert_allclose(face.sample, (0.4 + 0.1 * noise + 0.2).clip(0, 1), atol=1e-6)
    assert {network for network, _ in backend.calls} == {"estimator", "velocity"}


async def test_rows_of_one_batch_have_their_own_steps():
    backend = AnalyticBackend(cubic)
    jobs = [face_job(str(steps), num_steps=steps, grey=20 * steps) for steps in (1, 2, 4)]
    together = await restore(make_sampler(backend), *jobs)
    assert backend.rows("velocity") == [3, 2, 1, 1]
    for job, face in zip(jobs, together, strict=True):
        (alone,) = await restore(make_sampler(AnalyticBackend(cubic)), job)
        assert face.sample.tobytes() == alone.sample.tobytes()


async def test_a_face_joins_between_two_steps_of_another():
    gate = asyncio.Event()
    gate.set()
    backend = AnalyticBackend(cubic, gates={"velocity": gate})
    sampler = make_sampler(backend)
    jobs = face_job("early", num_steps=8), face_job("late", num_steps=2, grey=60)
    sampler.admit(jobs[0])
    while len(backend.rows("velocity")) < 3:
        await sampler.step()
    gate.clear()
    sampler.admit(jobs[1])
    await sampler.step()  # only the late face's entry can end
    gate.set()
    ended = await finish(sampler)
    assert backend.rows("velocity") == [1, 1, 1, 1, 2, 2, 1, 1]
    for job in jobs:
        (alone,) = await restore(make_sampler(AnalyticBackend(cubic)), job)
        assert ended[job.job_id, 0].sample.tobytes() == alone.sample.tobytes()


@pytest.mark.parametrize("network", ["estimator", "vae_encoder", "vae_decoder"])
async def test_steps_go_on_while_another_phase_takes_long(network):
    gate = asyncio.Event()
    gate.set()
    backend = AnalyticBackend(gates={network: gate})
    sampler = make_sampler(backend, max_num_steps=10_000)
    sampler.admit(face_job("steps", num_steps=1000))
    while not backend.rows("velocity"):
        await sampler.step()
    gate.clear()
    sampler.admit(face_job("held up", num_steps=1))
    held_before = len(backend.rows(network))
    while len(backend.rows(network)) == held_before:
        await sampler.step()
    steps_before = len(backend.rows("velocity"))
    while len(backend.rows("velocity")) < steps_before + 10:
        assert await sampler.step() == []
    gate.set()
    assert set(await finish(sampler)) == {("steps", 0), ("held up", 0)}


@pytest.mark.parametrize("network", NETWORKS)
async def test_a_guilty_face_fails_alone(network):
    backend = AnalyticBackend(guilty=guilty_white(network))
    jobs = [face_job("a"), face_job("b", grey=WHITE), face_job("c", grey=60)]
    first, guilty, last = await restore(make_sampler(backend), *jobs)
    assert isinstance(guilty, InferenceFailed)
    assert network in guilty.detail
    assert [face.sample.mean() for face in (first, last)] == pytest.approx([128 / 255, 60 / 255])


async def test_without_the_server_every_face_fails_and_none_is_tried_alone():
    error = DependencyUnavailable("no answer", hint="later", retry_after_s=3)
    error.stage = "estimator"
    backend = AnalyticBackend(guilty=guilty_white("estimator"), error=error)
    results = await restore(make_sampler(backend), face_job("a"), face_job("b", grey=WHITE))
    assert [type(result) for result in results] == [DependencyUnavailable] * 2
    assert backend.calls == [("estimator", 2)]
    first, second = results
    assert first is not second
    assert first.extra is not second.extra
    for each in results:
        assert (each.detail, each.hint, each.extra, each.stage) == (
            "no answer",
            "later",
            {"retry_after_s": 3},
            "estimator",
        )


async def test_withdrawn_faces_leave_and_the_others_stay():
    backend = AnalyticBackend()
    sampler = make_sampler(backend)
    for job in (face_job("gone", 0, num_steps=20), face_job("gone", 1, num_steps=20), face_job("stays", num_steps=6)):
        sampler.admit(job)
    while not backend.rows("velocity"):
        await sampler.step()
    sampler.withdraw({("gone", 0), ("gone", 1), ("never heard of", 0)})
    ended = await finish(sampler)
    assert isinstance(ended["gone", 0], Cancelled)
    assert isinstance(ended["gone", 1], Cancelled)
    assert isinstance(ended["stays", 0], RestoredFace)
    assert backend.rows("velocity")[-1] == 1


async def test_a_face_whose_deadline_passes_is_dropped():
    now_s = [100.0]
    backend = AnalyticBackend()
    sampler = make_sampler(backend, clock=lambda: now_s[0])
    sampler.admit(face_job("late", num_steps=20, deadline_s=110.0))
    sampler.admit(face_job("in time", num_steps=5, deadline_s=130.0))
    while not backend.rows("velocity"):
        await sampler.step()
    now_s[0] = 110.0
    ended = await finish(sampler)
    assert isinstance(ended["late", 0], DeadlineExceeded)
    assert isinstance(ended["in time", 0], RestoredFace)


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (face_job(size_px=32), InferenceFailed, r"uint8 \(32, 32, 3\)"),
        (face_job(num_steps=0), InferenceFailed, "0 steps"),
        (face_job(num_steps=21), InferenceFailed, "1 to 20"),
        (face_job(seed=-1), InferenceFailed, "seed"),
        (face_job(deadline_s=99.0), DeadlineExceeded, "queued"),
    ],
)
async def test_what_cannot_be_restored_gets_no_slot(job, error, message):
    sampler = make_sampler(clock=lambda: 100.0)
    with pytest.raises(error, match=message):
        sampler.admit(job)
    assert (sampler.free_slots, sampler.jobs) == (4, [])


async def test_slots_are_bounded_and_given_back():
    sampler = make_sampler(slots=2)
    for index in range(2):
        sampler.admit(face_job(face_index=index))
    with pytest.raises(ValueError, match="no slot"):
        sampler.admit(face_job(face_index=2))
    await finish(sampler)
    assert sampler.free_slots == 2


async def test_abandoned_faces_are_named_and_their_calls_end():
    gate = asyncio.Event()
    sampler = make_sampler(AnalyticBackend(gates={"vae_encoder": gate}))
    sampler.admit(face_job("a"))
    working = asyncio.create_task(sampler.step())
    await asyncio.sleep(0.01)
    assert [job.job_id for job in sampler.jobs] == ["a"]
    await sampler.abandon()
    assert await working == []
    assert sampler.free_slots == 4
    gate.set()
    (after,) = await restore(sampler, face_job("b"))
    assert isinstance(after, RestoredFace)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_bundle_with_other_tensor_names_is_refused(network):
    networks = dict(tiny_manifest().networks)
    networks[network] = networks[network].model_copy(update={"inputs": ()})
    with pytest.raises(ManifestMismatch, match=rf"networks\.{network}\.inputs"):
        make_sampler(networks=networks)


def test_a_bundle_without_sizes_is_refused():
    networks = dict(tiny_manifest().networks)
    (output,) = networks["vae_encoder"].outputs
    nameless = output.model_copy(update={"shape": ("batch", 2, "height", "width")})
    networks["vae_encoder"] = networks["vae_encoder"].model_copy(update={"outputs": (nameless,)})
    with pytest.raises(ManifestMismatch, match=r"networks\.vae_encoder\.outputs"):
        make_sampler(networks=networks)


async def test_timings_name_every_network():
    (face,) = await restore(make_sampler(), face_job())
    assert set(face.timings_ms) == set(NETWORKS)
    assert all(value_ms > 0 for value_ms in face.timings_ms.values())


async def test_metrics_tell_slots_steps_and_time():
    metrics = Metrics()
    sampler = make_sampler(metrics=metrics)
    sampler.admit(face_job("a", num_steps=3))
    sampler.admit(face_job("b", num_steps=1))
    assert "restore_batch_slots_active 2.0" in metrics.render().decode()
    await finish(sampler)
    lines = metrics.render().decode().splitlines()
    assert "restore_batch_slots_active 0.0" in lines
    assert "restore_ode_steps_total 4.0" in lines
    assert 'restore_stage_duration_seconds_count{stage="sampler"} 2.0' in lines
