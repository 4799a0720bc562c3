"""The energy of a face's finest detail."""

import numpy as np
import pytest

from service.core.face_ellipse import around_face, face_luma, fine_energy

SIZE = 64


def energy(picture, shrink=1.0):
    return fine_energy(face_luma(picture, shrink))


def waves(length_px, amplitude=0.1):
    along = amplitude * np.sin(2 * np.pi * np.arange(SIZE) / length_px)
    return np.broadcast_to((0.5 + along)[None, :, None], (SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("length_px", [2.5, 4, 8])
def test_waves_count_by_the_square_of_what_smoothing_takes(length_px):
    taken = (1 - np.cos(2 * np.pi / length_px)) / 2  # of [1, 2, 1] / 4
    assert energy(waves(length_px)) == pytest.approx((0.1 * taken) ** 2 / 2, rel=0.1)


def test_only_the_face_counts():
    picture = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    rows, columns = around_face(SIZE)
    noise = np.random.default_rng(0).random(picture.shape, dtype=np.float32)
    outside = noise.copy()
    outside[rows, columns] = 0.5
    assert energy(outside) == pytest.approx(0, abs=1e-9)
    picture[rows, columns] = noise[rows, columns]
    assert energy(picture) == energy(noise) > 0.01


def test_what_a_smaller_result_cannot_show_is_gone():
    assert energy(waves(2), 2.0) == pytest.approx(0, abs=1e-9)
    assert energy(waves(8), 2.0) == pytest.approx(energy(waves(4)), rel=0.3)
    assert energy(waves(4), 0.5) == energy(waves(4))


def test_both_kinds_of_pixels_have_one_range():
    crop = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    rows, columns = around_face(SIZE)
    luma = face_luma(crop)
    assert luma.shape == (rows.stop - rows.start, columns.stop - columns.start)
    np.testing.assert_allclose(luma, face_luma(crop.astype(np.float32) / 255), atol=0.003)
    assert face_luma(crop, 2.0).shape == tuple(round(side / 2) for side in luma.shape)
