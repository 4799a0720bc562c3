import dataclasses
import math

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from latent_pmrf.data.degradation import Degradation, DegradationRange, draw_degradation, gaussian_kernel, resize

NEUTRAL = Degradation(
    sigma=(0.1, 0.1), theta=0.0, downsample=1.0, noise_sigma=0.0, jpeg_quality=100, gray=False, noise_seed=0
)


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(astronaut())


def degraded(photo, size_px=512, **changes):
    return dataclasses.replace(NEUTRAL, **changes).apply(photo, size_px).astype(np.float64)


def error(photo, **changes):
    return float(np.sqrt(np.mean((degraded(photo, **changes) - photo) ** 2)))


def detail(image):
    return float(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F).var())


def test_draws_are_seeded_and_within_their_ranges():
    ranges = DegradationRange()
    drawn = [draw_degradation(ranges, np.random.default_rng(seed)) for seed in range(500)]
    assert drawn[3] == draw_degradation(ranges, np.random.default_rng(3))
    for name in ("downsample", "noise_sigma", "jpeg_quality"):
        values, (low, high) = [getattr(item, name) for item in drawn], getattr(ranges, name)
        assert low <= min(values) < low + (high - low) / 20
        assert high - (high - low) / 20 < max(values) <= high
    assert all(0.1 <= sigma <= 15 for item in drawn for sigma in item.sigma)
    assert all(0 <= item.theta < math.pi for item in drawn)
    assert sum(item.sigma[0] == item.sigma[1] for item in drawn) / 500 == pytest.approx(0.5, abs=0.06)
    assert len({item.noise_seed for item in drawn}) == 500


def test_log_uniform_draws_have_the_geometric_mean_as_median():
    ranges = DegradationRange(blur_sigma=(0.5, 8.0), downsample=(1.0, 16.0), log_uniform=True)
    rng = np.random.default_rng(0)
    drawn = [draw_degradation(ranges, rng) for _ in range(2000)]
    assert np.median([item.sigma[0] for item in drawn]) == pytest.approx(2, rel=0.1)
    assert np.median([item.downsample for item in drawn]) == pytest.approx(4, rel=0.1)


def test_quality_includes_both_ends_and_grey_has_its_share():
    ranges = DegradationRange(jpeg_quality=(30, 31), gray_probability=0.2)
    drawn = [draw_degradation(ranges, np.random.default_rng(seed)) for seed in range(400)]
    assert {item.jpeg_quality for item in drawn} == {30, 31}
    assert sum(item.gray for item in drawn) / 400 == pytest.approx(0.2, abs=0.05)


def test_the_same_degradation_gives_the_same_picture(photo):
    item = draw_degradation(DegradationRange(), np.random.default_rng(5))
    before = photo.copy()
    first = item.apply(photo, 256)
    assert (first.dtype, first.shape) == (np.uint8, (256, 256, 3))
    np.testing.assert_array_equal(first, item.apply(photo, 256))
    np.testing.assert_array_equal(photo, before)


def test_another_noise_seed_changes_noise_only(photo):
    one, other = (degraded(photo, noise_sigma=10, noise_seed=seed) for seed in (1, 2))
    assert not np.array_equal(one, other)
    assert np.abs(one.mean() - other.mean()) < 0.2


def test_doing_almost_nothing_leaves_the_photo_almost_alone(photo):
    assert error(photo) < 3.5


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sigma", [(1, 1), (4, 4), (15, 15)]),
        ("downsample", [2, 6, 24]),
        ("noise_sigma", [5, 10, 20]),
        ("jpeg_quality", [90, 50, 10]),
    ],
)
def test_more_of_anything_is_further_from_the_photo(photo, name, values):
    errors = [error(photo, **{name: value}) for value in values]
    assert errors == sorted(errors)
    assert errors[0] > error(photo)


@pytest.mark.parametrize(
    ("changes", "factor"), [({"sigma": (2.0, 2.0)}, 0.05), ({"downsample": 4.0}, 0.2), ({"noise_sigma": 20.0}, None)]
)
def test_blur_and_downsampling_remove_detail_and_noise_adds_it(photo, changes, factor):
    before, after = detail(degraded(photo)), detail(degraded(photo, **changes))
    assert after > 1.2 * before if factor is None else after < factor * before


def test_noise_has_the_asked_spread():
    flat = np.full((512, 512, 3), 128, np.uint8)
    noisy = degraded(flat, noise_sigma=12, jpeg_quality=100)
    luma = np.array([0.299, 0.587, 0.114])  # the compression keeps luma; it averages colour over 2x2 pixels
    assert (noisy @ luma).std() == pytest.approx(12 * np.linalg.norm(luma), rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=0.5)


def test_grey_has_equal_channels(photo):
    grey = degraded(photo, gray=True)
    assert np.abs(grey - grey.mean(axis=2, keepdims=True)).max() <= 2  # the compression's rounding
    assert np.abs(degraded(photo) - degraded(photo).mean(axis=2, keepdims=True)).max() > 50


def test_compression_keeps_the_order_of_the_channels():
    red = np.zeros((512, 512, 3), np.uint8)
    red[..., 0] = 200
    assert degraded(red).mean(axis=(0, 1)) == pytest.approx([200, 0, 0], abs=3)


def test_compression_shows_its_grid_at_the_smallest_size(photo):
    low = degraded(photo, downsample=4, jpeg_quality=10)
    steps = np.abs(np.diff(low.mean(axis=2), axis=1)).mean(axis=0)  # 511 steps; blocks of 8 are now 32 px wide
    assert steps[31::32].mean() > 1.2 * np.delete(steps, np.s_[31::32]).mean()


@pytest.mark.parametrize("size_px", [64, 256, 512])
def test_a_model_of_another_size_sees_the_same_degradation(photo, size_px):
    item = dataclasses.replace(NEUTRAL, sigma=(6, 6), downsample=8, noise_sigma=8, jpeg_quality=40)
    np.testing.assert_array_equal(item.apply(photo, size_px), resize(item.apply(photo, 512), size_px))


def test_a_coarse_photograph_is_shrunk_to_half_its_side_at_least():
    ranges = DegradationRange(downsample=(1.5, 24.0), log_uniform=True)
    coarse = ranges.for_coarse(256)
    assert coarse == dataclasses.replace(ranges, downsample=(4.0, 24.0))
    assert ranges.for_coarse(32).downsample == (24.0, 24.0)
    assert ranges.for_coarse(4096) == ranges


FINE = DegradationRange(
    blur_sigma=(3.0, 15.0),
    downsample=(4.0, 24.0),
    jpeg_quality=(40, 100),
    fine_probability=0.25,
    fine_blur_sigma=(0.1, 2.0),
    fine_downsample=(0.7, 1.5),
    fine_noise_sigma=(21.0, 30.0),
    fine_jpeg_quality=(10, 39),
)


def test_a_share_of_the_photographs_has_faults_as_fine_as_the_crop():
    drawn = [draw_degradation(FINE, np.random.default_rng(seed)) for seed in range(800)]
    fine = [item for item in drawn if item.downsample <= 1.5]
    assert len(fine) / 800 == pytest.approx(0.25, abs=0.04)
    assert all(max(item.sigma) <= 2 and item.noise_sigma >= 21 and item.jpeg_quality <= 39 for item in fine)
    others = [item for item in drawn if item.downsample > 1.5]
    assert all(min(item.sigma) >= 3 and item.noise_sigma <= 20 and item.jpeg_quality >= 40 for item in others)
    assert np.median([item.sigma[0] for item in fine]) == pytest.approx(math.sqrt(0.1 * 2.0), rel=0.35)


def test_a_share_of_the_fine_faults_is_on_the_crops_own_pixels():
    ranges = dataclasses.replace(FINE, fine_unscaled_probability=0.4)
    drawn = [draw_degradation(ranges, np.random.default_rng(seed)) for seed in range(800)]
    fine = [item for item in drawn if item.downsample <= 1.5]
    assert sum(item.downsample == 1 for item in fine) / len(fine) == pytest.approx(0.4, abs=0.08)


def test_a_coarse_photograph_has_no_pixels_as_fine_as_the_crop():
    assert FINE.for_coarse(256).fine_probability == 0
    drawn = [draw_degradation(FINE.for_coarse(256), np.random.default_rng(seed)) for seed in range(100)]
    assert min(item.downsample for item in drawn) >= 4


def test_without_fine_faults_the_draws_are_those_before_there_were_any():
    item = draw_degradation(DegradationRange(), np.random.default_rng(5))
    assert item == draw_degradation(DegradationRange(fine_noise_sigma=(1.0, 2.0)), np.random.default_rng(5))
    rng = np.random.default_rng(5)
    assert item.sigma[0] == rng.uniform(0.1, 15.0)  # the first number that is drawn


def test_downsampling_never_goes_below_eight_pixels_and_may_enlarge(photo):
    assert degraded(photo[:64, :64], downsample=500.0).std() < photo[:64, :64].std() + 5
    assert degraded(photo, downsample=0.8).shape == (512, 512, 3)


@pytest.mark.parametrize("theta", [0.0, math.pi / 4, math.pi / 2])
def test_kernel_has_the_asked_axes(theta):
    kernel = gaussian_kernel((4.0, 1.5), theta, 41).astype(np.float64)
    y, x = np.mgrid[-20:21, -20:21]
    along, across = x * math.cos(theta) + y * math.sin(theta), y * math.cos(theta) - x * math.sin(theta)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert (kernel * along**2).sum() == pytest.approx(16, rel=0.01)
    assert (kernel * across**2).sum() == pytest.approx(2.25, rel=0.01)


def test_equal_sigmas_take_the_fast_way_to_the_same_picture(photo):
    fast = degraded(photo, sigma=(3.0, 3.0), theta=0.4)
    slow = degraded(photo, sigma=(3.0, 3.0 + 1e-9), theta=0.4)
    assert np.abs(fast - slow).mean() < 1  # both round to 8 bits before the compression


def test_an_oblong_kernel_blurs_one_direction_more():
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[:, 256:] = 255
    across, along = (degraded(lines, sigma=(12.0, 0.5), theta=theta) for theta in (0.0, math.pi / 2))
    assert np.abs(across - lines).mean() > 5 * np.abs(along - lines).mean()


@pytest.mark.parametrize("size_px", [128, 512, 700])
def test_resizing_keeps_the_mean(photo, size_px):
    resized = resize(photo, size_px)
    assert resized.shape == (size_px, size_px, 3)
    assert resized.mean() == pytest.approx(photo.mean(), abs=1)
    assert (resized is photo) == (size_px == 512)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"blur_sigma": (3.0, 1.0)}, r"blur_sigma must be two numbers from 0, the smaller first, not \[3\.0, 1\.0\]"),
        ({"downsample": (0.0, 4.0)}, "downsample must begin above 0"),
        ({"noise_sigma": (-1.0, 4.0)}, "noise_sigma must be two numbers from 0"),
        ({"jpeg_quality": (30, 101)}, "jpeg_quality ends at 100, not at 101"),
        ({"fine_blur_sigma": (0.0, 1.0)}, "fine_blur_sigma must begin above 0"),
        ({"fine_jpeg_quality": (10, 101)}, "fine_jpeg_quality ends at 100, not at 101"),
        ({"fine_noise_sigma": (3.0, 1.0)}, "fine_noise_sigma must be two numbers from 0, the smaller first"),
        ({"fine_probability": -0.1}, r"fine_probability must be from 0 to 1, not -0\.1"),
        ({"kernel_size": 40}, "kernel_size 40 must be odd"),
        ({"gray_probability": 1.5}, r"gray_probability must be from 0 to 1, not 1\.5"),
    ],
)
def test_what_cannot_be_done_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        DegradationRange(**changes)
