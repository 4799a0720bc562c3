import dataclasses
import math

import numpy as np
import pytest

from latent_pmrf.data.degradation import DegradationRange, draw_degradation
from latent_pmrf.data.screens import Screen, draw_screen

LINES = Screen(amplitude=0.4, period_px=8.0, theta=0.0, crossed=False, phases=(0.0, 0.0, 0.0))


def grey(level, side_px=64):
    return np.full((side_px, side_px, 3), level, np.float32)


def test_lines_are_waves_of_their_amplitude_and_period():
    screened = LINES.over(grey(127.5))
    assert screened.dtype == np.float32
    np.testing.assert_array_equal(screened, np.broadcast_to(screened[:1], screened.shape))
    spectrum = np.abs(np.fft.rfft(screened[0, :, 0] - 127.5)) * 2 / 64
    assert spectrum.argmax() == 64 / 8
    assert spectrum.max() == pytest.approx(0.4 * 127.5, rel=1e-3)


def test_the_direction_turns_them():
    downwards = dataclasses.replace(LINES, theta=math.pi / 2).over(grey(100))
    np.testing.assert_allclose(downwards, LINES.over(grey(100)).transpose(1, 0, 2), atol=1e-3)


def test_black_and_white_have_no_screen_and_nothing_leaves_its_range():
    for level in (0, 255):
        np.testing.assert_array_equal(LINES.over(grey(level)), grey(level))
    picture = np.random.default_rng(0).uniform(0, 255, (32, 48, 3)).astype(np.float32)
    before = picture.copy()
    screened = dataclasses.replace(LINES, amplitude=5.0).over(picture)
    assert (screened.min(), screened.max()) == (0, 255)
    np.testing.assert_array_equal(picture, before)


def test_dots_vary_both_ways_and_keep_the_mean():
    dots = dataclasses.replace(LINES, crossed=True).over(grey(127.5))
    assert dots.mean() == pytest.approx(127.5, abs=0.01)
    assert min(dots.std(axis=0).max(), dots.std(axis=1).max()) > 20


def test_phases_apart_colour_a_grey_picture_and_phases_alike_do_not():
    assert np.ptp(LINES.over(grey(100)), axis=2).max() == 0
    assert np.ptp(dataclasses.replace(LINES, phases=(0.0, 2.0, 4.0)).over(grey(100)), axis=2).max() > 40


def test_draws_are_seeded_within_their_bounds_and_of_every_kind():
    drawn = [draw_screen(np.random.default_rng(seed)) for seed in range(400)]
    assert drawn[7] == draw_screen(np.random.default_rng(7))
    assert all(0.05 <= item.amplitude <= 0.6 and 2.2 <= item.period_px <= 9 for item in drawn)
    for share in (item.crossed for item in drawn), (len(set(item.phases)) == 3 for item in drawn):
        assert sum(share) / 400 == pytest.approx(0.5, abs=0.08)


def test_a_share_of_the_fine_faults_lies_behind_a_screen_and_no_other_photograph():
    ranges = DegradationRange(
        downsample=(4.0, 24.0), fine_probability=0.5, fine_downsample=(0.7, 1.5), fine_screen_probability=0.25
    )
    drawn = [draw_degradation(ranges, np.random.default_rng(seed)) for seed in range(800)]
    screened = [item for item in drawn if item.screen]
    assert len(screened) / 800 == pytest.approx(0.125, abs=0.03)
    assert max(item.downsample for item in screened) <= 1.5


def test_a_screen_is_seen_in_the_degraded_picture():
    item = draw_degradation(
        DegradationRange(
            fine_probability=1, fine_screen_probability=1, fine_noise_sigma=(0.5, 0.5), fine_jpeg_quality=(100, 100)
        ),
        np.random.default_rng(3),
    )
    flat = grey(127, 512).astype(np.uint8)
    with_it, without = (dataclasses.replace(item, screen=screen).apply(flat, 512) for screen in (LINES, None))
    assert with_it.std() > 20 * without.std()


def test_noise_that_begins_above_0_is_drawn_on_the_logarithmic_axis():
    ranges = DegradationRange(noise_sigma=(1.0, 16.0), log_uniform=True)
    rng = np.random.default_rng(0)
    drawn = [draw_degradation(ranges, rng).noise_sigma for _ in range(1000)]
    assert np.median(drawn) == pytest.approx(4, rel=0.1)
    from_0 = [
        draw_degradation(dataclasses.replace(ranges, noise_sigma=(0.0, 16.0)), rng).noise_sigma for _ in range(1000)
    ]
    assert np.median(from_0) == pytest.approx(8, rel=0.1)
