import math

import numpy as np
import pytest
import torch

from latent_pmrf.flow.path import sample_path, stratified_times
from latent_pmrf.flow.solver import euler, time_grid
from latent_pmrf.flow.source import add_source_noise
from latent_pmrf.flow.statistics import LatentStatistics


def test_path_runs_from_source_to_target():
    x_0, x_1 = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    point = sample_path(x_0, x_1, torch.tensor([0.0, 1.0, 0.25]))
    torch.testing.assert_close(point.x_t[0], x_0[0])
    torch.testing.assert_close(point.x_t[1], x_1[1])
    torch.testing.assert_close(point.x_t[2], 0.75 * x_0[2] + 0.25 * x_1[2])


def test_velocity_and_state_give_back_both_ends():
    x_0, x_1, t = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5)
    point = sample_path(x_0, x_1, t)
    torch.testing.assert_close(point.x_t - t[:, None] * point.v_t, x_0)
    torch.testing.assert_close(point.x_t + (1 - t)[:, None] * point.v_t, x_1)


@pytest.mark.parametrize(("x_1", "t"), [((3, 2, 4, 5), (3,)), ((3, 2, 4, 4), (2,)), ((3, 2, 4, 4), (3, 1))])
def test_path_refuses_shapes_that_do_not_agree(x_1, t):
    with pytest.raises(ValueError, match="do not agree"):
        sample_path(torch.zeros(3, 2, 4, 4), torch.zeros(x_1), torch.zeros(t))


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_each_stratum_holds_one_time(batch_size):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        t = stratified_times(batch_size, generator)
        assert sorted((t * batch_size).floor().int().tolist()) == list(range(batch_size))


def test_times_are_in_random_order_uniform_and_seeded():
    draws = torch.stack([stratified_times(4, torch.Generator().manual_seed(seed)) for seed in range(400)])
    assert draws[:, 0].mean() == pytest.approx(0.5, abs=0.06)
    assert draws[:, 0].var() == pytest.approx(1 / 12, rel=0.15)
    assert torch.equal(stratified_times(4, torch.Generator().manual_seed(7)), draws[7])


def test_time_grid_is_uniform_and_leaves_out_the_end():
    assert time_grid(4) == [0, 0.25, 0.5, 0.75]
    assert time_grid(1) == [0]


@pytest.mark.parametrize("num_steps", [0, -3])
def test_time_grid_needs_a_step(num_steps):
    with pytest.raises(ValueError, match=f"not {num_steps}"):
        euler(lambda x, t: x, np.zeros(1), num_steps)


@pytest.mark.parametrize("num_steps", [1, 7])
def test_euler_is_exact_on_straight_paths(num_steps):
    x_0, x_1 = np.array([1.0, -2.0]), np.array([3.0, 5.0])
    np.testing.assert_allclose(euler(lambda x, t: x_1 - x_0, x_0, num_steps), x_1)
    assert x_0.tolist() == [1.0, -2.0]


@pytest.mark.parametrize("make", [np.array, torch.tensor])
@pytest.mark.parametrize("num_steps", [1, 4, 10])
def test_euler_sums_the_field_at_the_left_ends(make, num_steps):
    # The integral of 3 t^2 is 1; the left sum is 3 / K^3 * sum(k^2) = (K - 1) (2 K - 1) / (2 K^2).
    x_1 = euler(lambda x, t: 0 * x + 3 * t**2, make([0.5, 2.0]), num_steps)
    left_sum = (num_steps - 1) * (2 * num_steps - 1) / (2 * num_steps**2)
    assert x_1.tolist() == pytest.approx([0.5 + left_sum, 2 + left_sum])


def test_euler_converges_at_first_order():
    errors = [abs(float(euler(lambda x, t: x, np.float64(1), k)) - math.e) for k in (50, 100, 200)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


def test_source_noise_is_one_number_or_one_per_channel():
    z, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(add_source_noise(z, [0.1], noise), z + 0.1 * noise)
    per_channel = add_source_noise(z, (0.0, 0.5, 2.0), noise)
    assert torch.equal(per_channel[:, 0], z[:, 0])
    torch.testing.assert_close(per_channel[:, 2], z[:, 2] + 2 * noise[:, 2])


@pytest.mark.parametrize("sigma_s", [(), (0.1, 0.2), (0.1,) * 4])
def test_source_noise_refuses_other_counts(sigma_s):
    with pytest.raises(ValueError, match=f"{len(sigma_s)} entries for 3 channels"):
        add_source_noise(torch.zeros(1, 3, 2, 2), sigma_s, torch.zeros(1, 3, 2, 2))


def test_statistics_are_each_other_s_inverse():
    statistics = LatentStatistics((0.5, -1.0), (2.0, 0.25), (0.1, 0.1))
    raw = torch.randn(3, 2, 4, 4)
    z = statistics.normalise(raw)
    torch.testing.assert_close(z[:, 1], (raw[:, 1] + 1) / 0.25)
    torch.testing.assert_close(statistics.denormalise(z), raw)
