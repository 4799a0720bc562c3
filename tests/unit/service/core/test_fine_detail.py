"""The energy of a face's finest detail."""

import numpy as np
import pytest

from service.core.face_ellipse import around_face
from service.core.fine_detail import fine_energy

SIZE = 64


def waves(length_px, amplitude=0.1):
    along = amplitude * np.sin(2 * np.pi * np.arange(SIZE) / length_px)
    return np.broadcast_to((0.5 + along)[None, :, None], (SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("length_px", [2.5, 4, 8])
def test_waves_count_by_the_square_of_what_smoothing_takes(length_px):
    taken = (1 - np.cos(2 * np.pi / length_px)) / 2  # of [1, 2, 1] / 4
    assert fine_energy(waves(length_px)) == pytest.approx((0.1 * taken) ** 2 / 2, rel=0.1)


def test_only_the_face_counts():
    picture = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    rows, columns = around_face(SIZE)
    noise = np.random.default_rng(0).random(picture.shape, dtype=np.float32)
    outside = noise.copy()
    outside[rows, columns] = 0.5
    assert fine_energy(outside) == pytest.approx(0, abs=1e-9)
    picture[rows, columns] = noise[rows, columns]
    assert fine_energy(picture) == fine_energy(noise) > 0.01


def test_what_a_smaller_result_cannot_show_is_gone():
    assert fine_energy(waves(2), 2.0) == pytest.approx(0, abs=1e-9)
    assert fine_energy(waves(8), 2.0) == pytest.approx(fine_energy(waves(4)), rel=0.3)
    assert fine_energy(waves(4), 0.5) == fine_energy(waves(4))
