import numpy as np
import pytest

from service.sampling.taming import roughness

SIDE_PX = 256
EVERY_SECOND = np.arange(SIDE_PX) % 2 * np.float32(0.2)


def grey(values):
    return np.ascontiguousarray(np.broadcast_to(0.4 + np.float32(values), (SIDE_PX, SIDE_PX))[:, :, None].repeat(3, 2))


@pytest.mark.parametrize("lines", [EVERY_SECOND, EVERY_SECOND[:, None], EVERY_SECOND + EVERY_SECOND[:, None]])
def test_lines_count_with_half_their_height(lines):
    assert roughness(grey(lines)) == pytest.approx(0.1, abs=1e-5)


def test_checks_count_as_lines_do():
    at = np.arange(SIDE_PX)
    assert roughness(grey((at + at[:, None]) % 2 * 0.2)) == pytest.approx(0.1, abs=1e-5)


def test_noise_counts_in_proportion():
    noise = np.random.default_rng(0).normal(0, 0.1, (SIDE_PX, SIDE_PX))
    assert roughness(grey(noise / 2)) == pytest.approx(roughness(grey(noise)) / 2, rel=1e-3)
    assert roughness(grey(noise)) > 0.005


def test_light_and_shade_do_not_count():
    assert roughness(grey(np.sin(np.arange(SIDE_PX) / 8) / 3)) < 0.003


def test_hairs_do_not_count():
    hairs = np.zeros((SIDE_PX, SIDE_PX))
    hairs[::12] = 0.5
    assert roughness(grey(hairs)) < 1e-5


def test_what_lies_beside_the_face_does_not_count():
    picture = np.full((SIDE_PX, SIDE_PX, 3), 0.4, np.float32)
    picture[:40] += np.random.default_rng(0).random((40, SIDE_PX, 3)).astype(np.float32)
    assert roughness(picture) < 1e-5
