"""Estimators that go astray: what is tried, whose face it changes, and that the face has its own colours at the end."""

import numpy as np
import pytest

from service.core.metrics import Metrics
from service.core.types import FaceJob
from service.sampling.sampler import Sampler
from service.sampling.taming import SMOOTHERS, TAMERS, recoloured
from tests.bundle import tiny_manifest
from tests.fakes import AnalyticBackend

SIDE_PX = 256
PLAIN = np.full((SIDE_PX, SIDE_PX, 3), (120, 100, 90), np.uint8)
GLARING = np.full((SIDE_PX, SIDE_PX, 3), (250, 40, 200), np.uint8)
SCREEN = np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8)
SCREEN[::2, ::2] = SCREEN[1::2, 1::2] = 170


class Astray(AnalyticBackend):
    """Its estimator answers white to glaring colours and to the finest detail."""

    def __init__(self, *, most_colour=0.5, most_detail=0.1):
        super().__init__()
        self._limits = most_colour, most_detail

    async def infer(self, network, inputs):
        outputs = await super().infer(network, inputs)
        if network != "estimator":
            return outputs
        image = inputs["image"]
        colour = (image.max(axis=1) - image.min(axis=1)).max(axis=(1, 2))
        detail = np.abs(np.diff(image, axis=3)).mean(axis=(1, 2, 3))
        astray = (colour > self._limits[0]) | (detail > self._limits[1])
        return {"posterior_mean": np.where(astray[:, None, None, None], 1, image).astype(np.float32)}


LIMITS = {"max_coarse_shift": 0.18, "max_roughness": 0.0051}


async def restored(backend, *crops, limits=LIMITS, **fields):
    sampler = Sampler(backend, tiny_manifest(SIDE_PX, **limits, sigma_s=(0.0,)), 4, metrics=Metrics())
    for index, crop in enumerate(crops):
        sampler.admit(FaceJob("photo", index, crop, 1, 0, **fields))
    ended = {}
    while sampler.jobs:
        ended |= {outcome.job.face_index: outcome.result for outcome in await sampler.step()}
    return [ended[index] for index in range(len(crops))]


def rows_of(backend, network):
    return [rows for called, rows in backend.calls if called == network]


def unit(crop):
    return crop.astype(np.float32) / 255


def luma(crop):
    return unit(crop) @ np.float32((0.299, 0.587, 0.114)) * 255


async def test_ordinary_faces_are_estimated_once():
    backend = Astray()
    (face,) = await restored(backend, PLAIN)
    np.testing.assert_allclose(face.posterior_mean, unit(PLAIN), atol=1e-6)
    assert rows_of(backend, "estimator") == [1]


async def test_a_face_in_glaring_colours_is_shown_with_less_and_gets_them_back():
    backend = Astray()
    plain, glaring = await restored(backend, PLAIN, GLARING)
    np.testing.assert_allclose(plain.posterior_mean, unit(PLAIN), atol=1e-6)
    np.testing.assert_allclose(glaring.posterior_mean, unit(GLARING), atol=0.01)
    assert rows_of(backend, "estimator") == [2, 1]
    assert rows_of(backend, "vae_encoder") == [2]


async def test_a_screen_is_smoothed():
    backend = Astray()
    (face,) = await restored(backend, SCREEN)
    assert face.posterior_mean.mean() == pytest.approx(unit(SCREEN).mean(), abs=0.01)
    assert face.posterior_mean.std() < 0.5 * unit(SCREEN).std()
    assert len(rows_of(backend, "estimator")) > 1


async def test_the_encoder_sees_what_was_estimated_last():
    """The sample follows the posterior mean; the tests' autoencoder keeps the mean of cells, in grey."""
    (face,) = await restored(Astray(), SCREEN)
    assert face.sample.mean() == pytest.approx(unit(SCREEN).mean(), abs=0.02)


async def test_what_is_left_standing_of_a_screen_is_smoothed():
    """The tests' estimator answers with the crop itself, so that nothing but smoothing takes a screen away."""
    backend = AnalyticBackend()
    plain, screen = await restored(backend, PLAIN, SCREEN)
    np.testing.assert_allclose(plain.posterior_mean, unit(PLAIN), atol=1e-6)
    assert screen.posterior_mean.mean() == pytest.approx(unit(SCREEN).mean(), abs=0.01)
    assert screen.posterior_mean.std() < 0.1 * unit(SCREEN).std()
    called = rows_of(backend, "estimator")
    assert called[0] == 2
    assert called[1:] == [1] * len(called[1:])
    assert 2 <= len(called) <= 1 + len(SMOOTHERS)


async def test_where_nothing_helps_the_first_answer_stays():
    backend = Astray(most_colour=-1)
    (face,) = await restored(backend, PLAIN)
    np.testing.assert_array_equal(face.posterior_mean, np.ones_like(face.posterior_mean))
    assert rows_of(backend, "estimator") == [1] * (1 + len(TAMERS))
    assert face.timings_ms["estimator"] > 0


@pytest.mark.parametrize(
    ("limit", "backend", "crop"),
    [("max_coarse_shift", Astray(), GLARING), ("max_roughness", AnalyticBackend(), SCREEN)],
)
async def test_a_bundle_without_a_limit_does_not_look_for_what_is_above_it(limit, backend, crop):
    (face,) = await restored(backend, crop, limits={**LIMITS, limit: None})
    first = np.ones_like(face.posterior_mean) if limit == "max_coarse_shift" else unit(crop)
    np.testing.assert_allclose(face.posterior_mean, first, atol=1e-6)
    assert rows_of(backend, "estimator") == [1]


@pytest.mark.parametrize("tamer", TAMERS)
def test_tamed_crops_have_the_brightness_of_theirs(tamer):
    for crop in (PLAIN, GLARING, SCREEN):
        tamed = tamer.apply(crop)
        assert (tamed.dtype, tamed.shape) == (np.uint8, crop.shape)
        assert luma(tamed).mean() == pytest.approx(luma(crop).mean(), abs=2)


def test_colour_is_given_back():
    colour = 1 / 3
    grey = luma(GLARING)[..., None] / 255
    pale = (colour * unit(GLARING) + (1 - colour) * grey).astype(np.float32)
    np.testing.assert_allclose(recoloured(pale, colour), unit(GLARING), atol=1e-5)
    assert recoloured(np.float32(unit(GLARING)), colour).max() == 1
    assert recoloured(pale, 1.0) is pale
