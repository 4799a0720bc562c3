import numpy as np
import pytest

from service.sampling.noise import source_noise

SHAPE = (4, 32, 32)


def test_the_noise_is_standard_normal():
    noise = source_noise((48, 32, 32), 1, 0)
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_the_same_face_gets_the_same_bits():
    assert (source_noise(SHAPE, 5, 2) == source_noise(list(SHAPE), 5, 2)).all()


@pytest.mark.parametrize("other", [(6, 2), (5, 3), (2, 5), (2**63 - 1, 2)])
def test_another_photo_or_face_gets_other_noise(other):
    correlation = np.corrcoef(source_noise(SHAPE, 5, 2).ravel(), source_noise(SHAPE, *other).ravel())[0, 1]
    assert abs(correlation) < 0.1


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        source_noise(SHAPE, -1, 0)
