import numpy as np
import pytest

from service.core.errors import InferenceFailed
from service.core.types import RestoredFace
from service.stages.blend import blend


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


@pytest.mark.parametrize("fidelity", [-0.1, 1.1, float("nan")])
def test_fidelity_out_of_range(face, fidelity):
    with pytest.raises(ValueError, match="fidelity"):
        blend(face, fidelity)


@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["sample", "posterior_mean"])
def test_a_network_that_went_wrong_ends_here(face, part, value, fidelity):
    getattr(face, part)[3, 4, 1] = value
    with pytest.raises(InferenceFailed, match="finite"):
        blend(face, fidelity)
