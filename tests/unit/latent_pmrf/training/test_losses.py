import math

import pytest
import torch

from latent_pmrf.training.losses import (
    RELATIVE_MSE_FLOOR,
    band_amplitude_l1,
    band_energy,
    kl_divergence,
    laplacian_pyramid_l1,
    relative_mse,
    repetition,
    shared_error,
)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_relative_mse_of_the_input_itself():
    target, error = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.3)
    assert relative_mse(error, target, error).item() == pytest.approx(0.09 / (0.09 + RELATIVE_MSE_FLOOR))
    assert relative_mse(target, target, error) == 0


def test_relative_mse_tempers_the_weight_of_severe():
    target = torch.zeros(2, 3, 8, 8)
    observed = torch.tensor([0.5, 0.1]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    expected = sum(mse / 4 / (mse + RELATIVE_MSE_FLOOR) for mse in (0.25, 0.01)) / 2
    assert relative_mse(observed / 2, target, observed).item() == pytest.approx(expected)


def test_shared_error_is_what_is_done_to_every_image_alike():
    target, observed = noise(4, 3, 8, 8), noise(4, 3, 8, 8, seed=1)
    pattern, own = 0.2 * noise(1, 3, 8, 8, seed=2), noise(4, 3, 8, 8, seed=3)
    scale = ((observed - target).square().mean((1, 2, 3), keepdim=True) + RELATIVE_MSE_FLOOR).sqrt()
    alike = shared_error(target + scale * pattern, target, observed).item()
    assert alike == pytest.approx(pattern.square().mean().item(), rel=1e-5)
    balanced = target + scale * (own - own.mean(0))
    assert shared_error(balanced, target, observed).item() == pytest.approx(0, abs=1e-9)
    assert shared_error(balanced + scale * pattern, target, observed).item() == pytest.approx(alike, rel=1e-4)


def test_shared_error_of_one_image_is_its_relative_mse():
    target, observed, prediction = noise(1, 3, 8, 8), noise(1, 3, 8, 8, seed=1), noise(1, 3, 8, 8, seed=2)
    expected = relative_mse(prediction, target, observed).item()
    assert shared_error(prediction, target, observed).item() == pytest.approx(expected, rel=1e-5)


def test_laplacian_l1_ignores_a_shift_of_brightness():
    image = noise(1, 3, 16, 16)
    assert laplacian_pyramid_l1(image + 0.7, image).item() == pytest.approx(0, abs=1e-6)
    assert laplacian_pyramid_l1(image, image) == 0


def test_laplacian_l1_of_a_checkerboard_is_its_amplitude():
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    board = 0.2 * (1 - 2 * ((x + y) % 2)).float().expand(1, 3, 16, 16)
    assert laplacian_pyramid_l1(board, torch.zeros_like(board)).item() == pytest.approx(0.2)


def test_laplacian_l1_sees_coarser_bands_by_level():
    blocks = noise(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)  # nothing finer than 4 px
    zero = torch.zeros_like(blocks)
    sums = [laplacian_pyramid_l1(blocks, zero, levels).item() for levels in (1, 2, 3)]
    assert sums[0] < sums[1] < sums[2]
    assert sums[2] - sums[1] > 2 * sums[0]


@pytest.mark.parametrize(
    ("mean", "variance", "expected"),
    [
        (0.0, 1.0, 0.0),
        (3.0, 1.0, 4.5),
        (0.0, math.e, 0.5 * (math.e - 2)),
        (1.0, 0.25, 0.5 * (1 + 0.25 - 1 + math.log(4))),
    ],
)
def test_kl_divergence_is_that_of_gaussians(mean, variance, expected):
    shape = (2, 4, 3, 3)
    logvar = torch.full(shape, math.log(variance))
    assert kl_divergence(torch.full(shape, mean), logvar).item() == pytest.approx(expected, abs=1e-6)


def test_band_energy_of_an_impulse():
    image = torch.zeros(2, 3, 7, 7)
    image[1, :, 3, 3] = 1
    # 25 values: -4, four 1s, twenty 0s; their sum is 0.
    assert band_energy(image).tolist() == pytest.approx([0, 20 / 24])


def test_band_energy_ignores_linear_ramps():
    ramp = torch.linspace(0, 1, 9).expand(1, 3, 9, 9)
    assert band_energy(ramp).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("loss", [lambda a, b: relative_mse(a, b, b + 1), laplacian_pyramid_l1])
def test_losses_compute_in_float32(loss):
    assert loss(noise(1, 3, 16, 16).bfloat16(), torch.zeros(1, 3, 16, 16)).dtype == torch.float32


def test_amplitude_l1_asks_for_texture_and_not_for_its_place():
    board = 0.3 * noise(1, 1, 64, 64, seed=7)
    moved = board.roll(1, dims=3)
    assert band_amplitude_l1(board, board) == 0
    displaced, fainter = band_amplitude_l1(moved, board).item(), band_amplitude_l1(0.5 * board, board).item()
    assert displaced < 0.1 * laplacian_pyramid_l1(moved, board).item()
    assert displaced < 0.2 * fainter
    assert band_amplitude_l1(1.5 * board, board).item() == pytest.approx(fainter, rel=0.01)


def test_amplitude_l1_of_a_flat_picture_has_a_gradient():
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    band_amplitude_l1(flat + 1e-5 * noise(1, 3, 32, 32), noise(1, 3, 32, 32)).backward()
    assert torch.isfinite(flat.grad).all()


def test_sharpness_is_measured_in_float32_whatever_the_networks_compute_in():
    image = 0.5 + 0.002 * noise(2, 3, 64, 64)
    expected = band_energy(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(band_energy(image), expected)


def lattice(period, side=64):
    """(1, 1, side, side): the same (period, period) tile of mean 0 again and again, of variance 1."""
    tile = noise(1, 1, period, period)
    return ((tile - tile.mean()) / tile.std(correction=0)).tile(1, 1, side // period, side // period)


@pytest.mark.parametrize(("period", "asked", "kept"), [(8, 8, 1), (4, 8, 1), (8, 16, 1), (16, 8, None)])
def test_repetition_finds_what_repeats_with_a_period_and_its_parts(period, asked, kept):
    found = repetition(lattice(period), asked, 32).item()
    if kept is None:
        assert 0.05 < found < 0.7  # the mean of its quarters
    else:
        assert found == pytest.approx(kept, rel=1e-5)


def test_repetition_sees_no_brightness_and_little_noise():
    windows = torch.arange(4.0).view(1, 1, 2, 2).repeat_interleave(32, 2).repeat_interleave(32, 3)
    assert repetition(windows, 8, 32).item() == pytest.approx(0, abs=1e-12)
    assert repetition(noise(4, 3, 64, 64), 8, 32).item() == pytest.approx(1 / 16, rel=0.1)


def test_repetition_finds_a_lattice_that_turns_from_window_to_window():
    halves = torch.cat([lattice(8), -lattice(8)], dim=3)
    assert repetition(halves, 8, 64).item() == pytest.approx(1, rel=1e-5)
    assert repetition(halves, 8, 128).item() == pytest.approx(1, rel=1e-5)  # a window is no larger than the picture


def test_repetition_leaves_out_what_fills_no_window():
    image = torch.cat([torch.zeros(1, 1, 64, 64), lattice(8)[..., :8]], dim=3)
    assert repetition(image, 8, 64) == 0
