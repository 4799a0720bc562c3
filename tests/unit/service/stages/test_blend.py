from dataclasses import replace

import cv2
import numpy as np
import pytest

from service.core.errors import InferenceFailed
from service.core.types import RestoredFace
from service.stages.blend import blend, blend_where_it_draws


@pytest.fixture
def face():
    random = np.random.default_rng(0)
    sample, mean = random.random((2, 16, 16, 3), dtype=np.float32)
    return RestoredFace("job", 3, sample, mean)


def test_the_ends_are_sample_and_posterior_mean(face):
    np.testing.assert_array_equal(blend(face, 0.0).pixels, face.sample)
    np.testing.assert_array_equal(blend(face, 1.0).pixels, face.posterior_mean)


def test_between_it_is_linear(face):
    expected = 0.25 * face.posterior_mean + 0.75 * face.sample
    done = blend(face, 0.25)
    np.testing.assert_allclose(done.pixels, expected, atol=1e-6)
    assert done.pixels.dtype == np.float32
    assert done.face_index == 3


def test_ind_rmse_shrinks_towards_the_posterior_mean(face):
    whole = float(np.sqrt(np.mean((face.sample - face.posterior_mean) ** 2)))
    assert blend(face, 0.0).ind_rmse == pytest.approx(whole, rel=1e-5)
    assert blend(face, 0.5).ind_rmse == pytest.approx(whole / 2, rel=1e-5)
    assert blend(face, 1.0).ind_rmse == 0.0


def test_the_face_is_not_written_to(face):
    before = face.sample.copy()
    blend(face, 0.0).pixels[:] = 0
    np.testing.assert_array_equal(face.sample, before)


@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["sample", "posterior_mean"])
def test_a_network_that_went_wrong_ends_here(face, part, value, fidelity):
    getattr(face, part)[3, 4, 1] = value
    with pytest.raises(InferenceFailed, match="finite"):
        blend(face, fidelity)


@pytest.fixture
def blurred():
    """A face whose posterior mean is soft, and whose sample is as sharp as grain."""
    random = np.random.default_rng(1)
    soft = cv2.GaussianBlur(random.random((64, 64, 3), dtype=np.float32), (0, 0), 4)
    grain = random.normal(0, 0.02, soft.shape).astype(np.float32)
    return RestoredFace("job", 0, soft + grain, soft)


def shown(face, *, moved=0.0):
    """What the networks were shown; `moved` by so much it was another."""
    return np.rint(np.clip(face.posterior_mean + np.float32(moved), 0, 1) * 255).astype(np.uint8)


def swapped(face):
    return replace(face, sample=face.posterior_mean, posterior_mean=face.sample)


@pytest.mark.parametrize("fidelity", [0.0, 0.5])
def test_a_sample_that_brings_detail_is_drawn_as_asked_for(blurred, fidelity):
    done = blend_where_it_draws(blurred, shown(blurred), fidelity, 1.0)
    np.testing.assert_array_equal(done.pixels, blend(blurred, fidelity).pixels)
    assert done.fidelity == fidelity


def test_one_that_brings_none_leaves_the_posterior_mean(blurred):
    sharp = swapped(blurred)
    done = blend_where_it_draws(sharp, shown(sharp), 0.5, 1.0)
    np.testing.assert_array_equal(done.pixels, sharp.posterior_mean)
    assert (done.fidelity, done.ind_rmse) == (1.0, blend(sharp, 0.5).ind_rmse)  # as uncertain as before


def test_one_that_brings_little_is_drawn_in_part(blurred):
    grain = blurred.sample - blurred.posterior_mean
    little = replace(blurred, posterior_mean=blurred.sample, sample=blurred.sample + np.float32(0.15) * grain)
    done = blend_where_it_draws(little, shown(little), 0.5, 1.0)
    assert 0.5 < done.fidelity < 1
    np.testing.assert_array_equal(done.pixels, blend(little, done.fidelity).pixels)


def test_detail_that_the_result_is_too_small_for_does_not_count(blurred):
    board = np.float32(0.02) * (np.indices((64, 64)).sum(axis=0) % 2 - np.float32(0.5))
    face = replace(blurred, sample=blurred.posterior_mean + board[..., None].astype(np.float32))
    assert blend_where_it_draws(face, shown(face), 0.5, 1.0).fidelity == 0.5
    assert blend_where_it_draws(face, shown(face), 0.5, 2.0).fidelity == 1.0


def test_a_face_that_was_degraded_is_blended_as_asked_for(blurred):
    sharp = swapped(blurred)
    assert blend_where_it_draws(sharp, shown(sharp, moved=0.03), 0.5, 1.0).fidelity == 0.5
    assert 0.5 < blend_where_it_draws(sharp, shown(sharp, moved=0.016), 0.5, 1.0).fidelity < 1


def test_a_plain_picture_is_blended_as_asked_for():
    plain = RestoredFace("job", 0, *np.full((2, 64, 64, 3), 0.5, np.float32))
    assert blend_where_it_draws(plain, shown(plain), 0.5, 1.0).ind_rmse == 0.0
    noise = replace(plain, sample=np.random.default_rng(2).random(plain.sample.shape, dtype=np.float32))
    assert blend_where_it_draws(noise, shown(noise), 0.5, 1.0).fidelity == 0.5
