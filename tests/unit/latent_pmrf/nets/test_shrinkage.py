"""Wavelet shrinkage: its transform beside the same in pixels, and what its gains do to a picture."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latent_pmrf.nets.shrinkage import CELL_PX, WaveletShrinkage

SIDE_PX = 64
INNER = np.s_[..., 8:-8, 8:-8]
ALL, NONE = 60.0, -60.0  # logarithms of the noise's variance: all of a band is noise, nothing is


@pytest.fixture
def image():
    return torch.rand(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(3))


def taking(*noise):
    """A shrinkage that takes so much for noise: in either band of the brightness and of the colour."""
    shrinkage = WaveletShrinkage().eval().requires_grad_(False)
    shrinkage.conv_out.bias.copy_(torch.tensor(noise))
    return shrinkage


def smoothed(image, distance):
    for sides in ((distance, distance, 0, 0), (0, 0, distance, distance)):
        padded = F.pad(image, sides, mode="replicate")
        before, after = (padded.roll(shift, dims=3 if sides[0] else 2) for shift in (distance, -distance))
        mean = padded / 2 + before / 4 + after / 4
        image = mean[..., sides[2] : mean.shape[2] - sides[3], sides[0] : mean.shape[3] - sides[1]]
    return image


def parts(image):
    """Brightness and colour."""
    brightness = image.mean(1, keepdim=True).expand_as(image)
    return brightness, image - brightness


def test_nothing_is_taken_where_nothing_is_noise(image):
    torch.testing.assert_close(taking(NONE, NONE, NONE, NONE)(image), image, atol=1e-6, rtol=0)


def test_all_noise_leaves_the_picture_smoothed_twice(image):
    left = taking(ALL, ALL, ALL, ALL)(image)
    torch.testing.assert_close(left[INNER], smoothed(smoothed(image, 1), 2)[INNER], atol=1e-6, rtol=0)


def test_bands_and_colour_are_taken_apart(image):
    finest, coarser = image - smoothed(image, 1), smoothed(image, 1) - smoothed(smoothed(image, 1), 2)
    expected = {
        (ALL, NONE, NONE, NONE): parts(finest)[0],
        (NONE, ALL, NONE, NONE): parts(finest)[1],
        (NONE, NONE, ALL, NONE): parts(coarser)[0],
        (NONE, NONE, NONE, ALL): parts(coarser)[1],
    }
    for noise, detail in expected.items():
        torch.testing.assert_close((image - taking(*noise)(image))[INNER], detail[INNER], atol=1e-6, rtol=0)


def test_the_gain_is_wieners_of_the_local_variance():
    levels, noise = 8 / 255, 6 / 255
    image = 0.5 + levels * torch.randn(1, 1, 512, 512, generator=torch.Generator().manual_seed(1)).expand(1, 3, -1, -1)
    finest = image - smoothed(image, 1)
    brightness = finest.mean(1, keepdim=True) * 3**0.5  # in the orthonormal basis
    variance = F.avg_pool2d((brightness * 64).square(), CELL_PX)
    log_noise = float(np.log((noise * 64) ** 2))
    taken = image - taking(log_noise, NONE, NONE, NONE)(image)
    gain = F.interpolate(variance / (variance + np.exp(log_noise)), scale_factor=float(CELL_PX), mode="bilinear")
    torch.testing.assert_close(taken[INNER], ((1 - gain) * finest)[INNER], atol=1e-3, rtol=0)
    assert 0.3 < float(gain.mean()) < 0.9


def test_edges_go_on_as_they_end():
    ramp = torch.linspace(0.2, 0.8, SIDE_PX).expand(1, 3, SIDE_PX, SIDE_PX)
    left = taking(ALL, ALL, ALL, ALL)(ramp)
    step = 0.6 / (SIDE_PX - 1)
    assert float((left - ramp).abs().max()) < step
    flat = torch.full((1, 3, SIDE_PX, SIDE_PX), 0.9)
    torch.testing.assert_close(taking(ALL, ALL, ALL, ALL)(flat), flat, atol=1e-6, rtol=0)


def test_the_gain_may_follow_how_noisy_the_whole_picture_is():
    """Of two pictures with one corner alike, the network may tell the corner's noise by the rest."""
    torch.manual_seed(5)
    shrinkage = WaveletShrinkage().eval().requires_grad_(False)
    torch.nn.init.normal_(shrinkage.conv_out.weight, std=0.1)
    calm = torch.full((1, 3, 128, 128), 0.5)
    calm[..., :64, :64] += 0.05 * torch.randn(1, 3, 64, 64)
    loud = calm.clone()
    loud[..., 64:] += 0.1 * torch.randn(1, 3, 128, 64)
    corner = np.s_[..., :32, :32]
    assert float((shrinkage(calm)[corner] - shrinkage(loud)[corner]).abs().max()) > 1e-3


def test_mixed_precision_leaves_the_picture_as_exact_as_it_is(image):
    shrinkage = taking(NONE, NONE, NONE, NONE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        left = shrinkage(image)
    assert left.dtype == torch.float32
    torch.testing.assert_close(left, image, atol=1e-6, rtol=0)


def test_fixed_kernels_are_no_weights():
    assert {name.split(".")[0] for name in WaveletShrinkage().state_dict()} == {
        "conv_in",
        "context",
        "hidden",
        "conv_out",
    }
