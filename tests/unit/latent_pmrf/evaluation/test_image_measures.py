import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from latent_pmrf.evaluation import metrics


def noisy(photo, sigma, seed=0):
    return np.clip(photo + sigma * np.random.default_rng(seed).standard_normal(photo.shape), 0, 1)


def blurred(photo, sigma):
    return cv2.GaussianBlur(photo, (0, 0), sigma)


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_psnr_and_ssim_equal_scikit_image_s(photo, sigma):
    image = noisy(photo, sigma)
    assert metrics.psnr(image, photo) == pytest.approx(peak_signal_noise_ratio(photo, image, data_range=1), rel=1e-9)
    expected = structural_similarity(
        photo, image, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2
    )
    assert metrics.ssim(image, photo) == pytest.approx(expected, abs=1e-6)


def test_psnr_of_a_known_error():
    black = np.zeros((8, 8, 3))
    assert metrics.psnr(black + 0.1, black) == pytest.approx(20)
    assert metrics.psnr(black, black) == float("inf")


@pytest.mark.parametrize("measure", [metrics.ssim, metrics.ms_ssim, metrics.sharpness_ratio])
def test_equal_pictures_score_one(photo, measure):
    assert measure(photo, photo) == pytest.approx(1)


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim, metrics.ms_ssim])
def test_similarity_is_symmetric_and_falls_with_damage(photo, measure):
    damaged = [noisy(photo, sigma) for sigma in (0.02, 0.1, 0.3)]
    scores = [measure(image, photo) for image in damaged]
    assert scores == sorted(scores, reverse=True)
    assert measure(photo, damaged[0]) == pytest.approx(scores[0])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda photo: noisy(photo, 0.1), 0.8163733),
        (lambda photo: blurred(photo, 2), 0.9538798),
        (lambda photo: 0.7 * photo, 0.9454840),
    ],
)
def test_ms_ssim_is_that_of_pytorch_msssim(photo, damage, expected):
    assert metrics.ms_ssim(damage(photo), photo) == pytest.approx(expected, abs=1e-5)  # its version 1.0.0


def test_ms_ssim_forgives_fine_noise_more_than_ssim(photo):
    image = noisy(photo, 0.1)
    assert metrics.ms_ssim(image, photo) > metrics.ssim(image, photo) + 0.1


def test_ms_ssim_of_one_scale_s_worth_of_contrast():
    # Halving the contrast of a picture gives the same contrast term at every scale, whatever its weight.
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.random((12, 12, 3)), (384, 384), interpolation=cv2.INTER_CUBIC)
    half = (coarse - coarse.mean((0, 1))) / 2 + coarse.mean((0, 1))
    assert 0.7 < metrics.ms_ssim(half, coarse) < 0.85  # 2 * 0.5 / (1 + 0.25) = 0.8, less near flat spots


def test_ms_ssim_of_a_negative_counts_as_nothing(photo):
    assert metrics.ms_ssim(1 - photo, photo) == 0


@pytest.mark.parametrize(
    "measure", [metrics.psnr, metrics.ssim, metrics.ms_ssim, metrics.flat_grain, metrics.blockiness]
)
def test_single_precision_is_nearly_double(photo, measure):
    image = noisy(photo, 0.05)
    arguments = (image,) if measure is metrics.blockiness else (image, photo)
    single = measure(*(array.astype(np.float32) for array in arguments))
    assert single == pytest.approx(measure(*arguments), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("image", "reference", "named"),
    [
        (np.zeros((8, 8, 3)), np.zeros((8, 9, 3)), "shapes differ"),
        (np.zeros((8, 8)), np.zeros((8, 8)), r"\(H, W, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), "floating point"),
    ],
)
def test_unfit_pictures_are_refused(image, reference, named):
    for measure in (metrics.psnr, metrics.ssim, metrics.colour_shift):
        with pytest.raises(ValueError, match=named):
            measure(image, reference)


def test_small_pictures_are_refused_where_a_window_must_fit(photo):
    with pytest.raises(ValueError, match="11 px window"):
        metrics.ssim(photo[:10, :10], photo[:10, :10])
    with pytest.raises(ValueError, match="176 px"):
        metrics.ms_ssim(photo[:175], photo[:175])
    assert metrics.ms_ssim(photo[:176, :176], photo[:176, :176]) == pytest.approx(1)
    with pytest.raises(ValueError, match="too small for a grid"):
        metrics.blockiness(photo[:15])


def test_sharpness_falls_with_blur_and_rises_with_grain(photo):
    assert metrics.sharpness_ratio(blurred(photo, 1), photo) < 0.2
    assert metrics.sharpness_ratio(noisy(photo, 0.05), photo) > 1.5
    with pytest.raises(ValueError, match="no detail"):
        metrics.sharpness_ratio(photo, np.full_like(photo, 0.5))


def test_laplacian_variance_of_an_impulse():
    image = np.zeros((7, 7, 3))
    image[3, 3] = 1
    assert metrics.laplacian_variance(image) == pytest.approx(20 / 25)


def test_colour_shift_is_of_the_means_only(photo):
    calm = 0.25 + 0.5 * photo
    assert metrics.colour_shift(noisy(calm, 0.05), calm) < 0.001
    assert metrics.colour_shift(calm + np.array([0.03, 0, -0.03]), calm) == pytest.approx(0.02)


def test_ind_rmse_is_the_distance_to_the_estimate(photo):
    assert metrics.ind_rmse(photo, photo) == 0
    assert metrics.ind_rmse(photo * 0, photo * 0 + 0.25) == pytest.approx(0.25)


def test_blocks_show_on_their_grid_only(photo):
    smooth = blurred(photo, 2)
    assert metrics.blockiness(smooth) == pytest.approx(1, abs=0.03)
    offsets = np.random.default_rng(0).normal(0, 0.02, (32, 32, 3)).repeat(8, 0).repeat(8, 1)
    assert metrics.blockiness(smooth + offsets) > 1.5
    assert metrics.blockiness(np.roll(smooth + offsets, (4, 4), (0, 1))) < 1
    assert metrics.blockiness(np.full((32, 32, 3), 0.5)) == 1


def test_compression_makes_blocks(photo):
    levels = (photo * 255).astype(np.uint8)
    packed = cv2.imdecode(cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, 15])[1], cv2.IMREAD_COLOR)
    assert metrics.blockiness(packed / 255) > metrics.blockiness(photo) + 0.2


def test_grain_is_measured_where_the_reference_is_flat():
    y, x = np.mgrid[:128, :128]
    texture = 0.5 + 0.2 * ((x + y) % 2 * 2 - 1) * (x >= 48)  # the left part is flat
    reference = np.repeat(texture[..., None], 3, axis=2)
    grain = np.random.default_rng(0).standard_normal(reference.shape) * 4 / 255
    left, right = grain.copy(), grain.copy()
    left[:, 44:], right[:, :44] = 0, 0
    assert metrics.flat_grain(reference, reference) == 0
    assert metrics.flat_grain(reference + left, reference) == pytest.approx(4, rel=0.15)  # less what the Gaussian keeps
    assert metrics.flat_grain(reference + right, reference) < 0.1


def test_smoothing_is_negative_grain(photo):
    grainy = noisy(blurred(photo, 2), 0.02)
    assert metrics.flat_grain(blurred(photo, 2), grainy) < -3


def test_luma_weighs_the_channels():
    assert metrics.luma(np.eye(3)[None]).tolist() == [[0.299, 0.587, 0.114]]
