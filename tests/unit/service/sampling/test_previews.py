import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from service.core.errors import InferenceFailed
from service.core.metrics import Metrics
from service.core.types import Tone
from service.sampling.previews import SIDE_PX
from service.sampling.sampler import Sampler
from tests.bundle import tiny_manifest
from tests.fakes import AnalyticBackend, face_job


def make_sampler(backend, size_px=64, *, decoder_rows=None, **parts):
    manifest = tiny_manifest(size_px, sigma_s=(0.0,))
    if decoder_rows is not None:
        decoder = manifest.networks["vae_decoder"].model_copy(update={"max_batch_size": decoder_rows})
        manifest = manifest.model_copy(update={"networks": {**manifest.networks, "vae_decoder": decoder}})
    return Sampler(backend, manifest, 4, metrics=Metrics(), **parts)


async def watch(sampler, *jobs):
    """Restore faces; the previews in the order they came, and how the faces ended."""
    for job in jobs:
        sampler.admit(job)
    seen, ended = [], []
    while sampler.jobs:
        ended += await sampler.step()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "previews"))
        seen += sampler.take_previews()
    return seen, ended


def shade(preview):
    return np.asarray(Image.open(io.BytesIO(preview.data))).mean() / 255


async def test_a_preview_is_what_the_velocity_leads_to():
    backend = AnalyticBackend(lambda x_t, t: 0 * x_t + 0.4)  # from 0.2 to 0.6; the decoder takes [-1, 1]
    seen, (end,) = await watch(make_sampler(backend), face_job(grey=153, num_steps=5, preview_every=1))
    assert [(preview.steps_done, preview.num_steps) for preview in seen] == [(1, 5), (2, 5), (3, 5), (4, 5)]
    assert [shade(preview) for preview in seen] == pytest.approx([end.result.sample.mean()] * 4, abs=0.01)
    assert end.result.sample.mean() == pytest.approx(0.8, abs=0.01)


async def test_a_preview_looks_as_its_result_will_and_results_are_left_alone():
    def look(picture, crop):
        return picture + crop / np.float32(255)  # 0.8 and 0.6, clipped where they go beyond 1

    backend = AnalyticBackend(lambda x_t, t: 0 * x_t + 0.4)
    job = face_job(grey=153, num_steps=2, preview_every=1)
    (preview,), (end,) = await watch(make_sampler(backend, look=look), job)
    assert shade(preview) == pytest.approx(1.0, abs=0.01)
    assert end.result.sample.mean() == pytest.approx(0.8, abs=0.01)


async def test_a_preview_has_the_tone_of_its_photo():
    backend = AnalyticBackend(lambda x_t, t: 0 * x_t + 0.4)
    job = face_job(grey=153, num_steps=2, preview_every=1, tone=Tone(4.0, -0.2))  # 0.8 is 0.25 there
    (preview,), (end,) = await watch(make_sampler(backend), job)
    assert shade(preview) == pytest.approx(0.25, abs=0.01)
    assert end.result.sample.mean() == pytest.approx(0.8, abs=0.01)


async def test_a_face_that_asks_for_none_has_none():
    backend = AnalyticBackend()
    seen, _ = await watch(make_sampler(backend), face_job(num_steps=6))
    assert seen == []
    assert len(backend.rows("vae_decoder")) == 1


async def test_previews_come_at_their_steps_and_never_of_the_end():
    seen, _ = await watch(make_sampler(AnalyticBackend()), face_job(num_steps=9, preview_every=3))
    assert [preview.steps_done for preview in seen] == [3, 6]


async def test_previews_change_no_result():
    plain, shown = [
        (
            await watch(
                make_sampler(AnalyticBackend(lambda x_t, t: x_t * t)), face_job(num_steps=7, preview_every=every)
            )
        )[1]
        for every in (0, 1)
    ]
    assert (plain[0].result.sample == shown[0].result.sample).all()


async def test_pictures_are_small():
    (preview, *_), _ = await watch(
        make_sampler(AnalyticBackend(), 256), face_job(size_px=256, num_steps=3, preview_every=1)
    )
    assert Image.open(io.BytesIO(preview.data)).size == (SIDE_PX, SIDE_PX)
    assert len(preview.data) < 20_000


async def test_a_call_of_previews_has_no_more_faces_than_the_decoder_takes(caplog):
    backend = AnalyticBackend()
    jobs = [face_job(face_index=index, num_steps=6, preview_every=1) for index in range(3)]
    seen, ended = await watch(make_sampler(backend, decoder_rows=1), *jobs)
    assert {preview.face_index for preview in seen} == {0, 1, 2}
    assert len(ended) == 3
    assert caplog.records == []


async def test_steps_do_not_wait_for_a_preview_and_those_they_pass_are_dropped():
    gate = asyncio.Event()
    backend = AnalyticBackend(gates={"vae_decoder": gate})
    sampler = make_sampler(backend)
    sampler.admit(face_job(num_steps=8, preview_every=1))
    while sampler.steps_done["photo", 0] < 8:
        await sampler.step()
    assert len(backend.rows("vae_decoder")) == 1  # the first preview, which is still being made
    gate.set()
    while sampler.jobs:
        await sampler.step()
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert sampler.take_previews() == []  # the face has ended: its result is there
    await sampler.abandon()


async def test_a_preview_that_fails_harms_nobody():
    calls = []

    def guilty(network, _row):
        calls.append(network)
        return network == "vae_decoder" and calls.count("vae_decoder") == 1

    for error in (InferenceFailed("the decoder failed"), RuntimeError("a defect")):
        calls.clear()
        backend = AnalyticBackend(guilty=guilty, error=error)
        seen, (end,) = await watch(make_sampler(backend), face_job(num_steps=4, preview_every=1))
        assert [preview.steps_done for preview in seen] == [2, 3]
        assert end.result.sample.shape == (64, 64, 3)


async def test_who_is_withdrawn_is_seen_no_more_and_what_is_abandoned_ends():
    gate = asyncio.Event()
    sampler = make_sampler(AnalyticBackend(gates={"vae_decoder": gate}))
    sampler.admit(face_job(num_steps=8, preview_every=1))
    while sampler.steps_done["photo", 0] < 2:
        await sampler.step()
    sampler.withdraw({("photo", 0)})
    gate.set()
    await asyncio.sleep(0.05)
    assert sampler.take_previews() == []
    sampler.admit(face_job("other", num_steps=8, preview_every=1))
    gate.clear()
    while sampler.steps_done.get(("other", 0), 0) < 2:
        await sampler.step()
    assert [job.job_id for job in sampler.jobs] == ["other"]
    await sampler.abandon()
    assert sampler.take_previews() == []


async def test_a_look_that_fails_costs_its_preview_and_no_face(caplog):
    def look(_picture, _crop):
        raise ValueError("no colour")

    seen, (end,) = await watch(make_sampler(AnalyticBackend(), look=look), face_job(num_steps=3, preview_every=1))
    assert seen == []
    assert np.isfinite(end.result.sample).all()
    assert "unexpected error with a preview" in caplog.text
