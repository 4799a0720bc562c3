import dataclasses

import pytest
import torch

from latent_pmrf.flow.path import sample_path
from latent_pmrf.flow.solver import euler
from latent_pmrf.nets.hdit import HDiT
from latent_pmrf.nets.preconditioning import Preconditioning
from tests.tiny_runs import HDIT, tiny

CONDITIONED = dataclasses.replace(HDIT, mean_conditioned=True)
DISTANCE = torch.tensor([0.1, 0.5, 1.0, 2.0])
SIGMA_S = torch.tensor([0.03, 0.3, 0.1, 1.0])


@pytest.fixture
def untrained():
    torch.manual_seed(0)
    network = HDiT(CONDITIONED).eval()
    network.preconditioning.set_scales(DISTANCE, SIGMA_S)
    return network


def column(values):
    return values[:, None, None]


@pytest.mark.parametrize("time", [0.0, 0.02, 0.3, 0.8, 1.0])
def test_what_is_left_has_deviation_one_and_nothing_to_do_with_the_state(time):
    generator = torch.Generator().manual_seed(1)
    d, n = (column(s) * torch.randn(64, 4, 32, 32, generator=generator) for s in (DISTANCE, SIGMA_S))
    preconditioning = Preconditioning(4)
    preconditioning.set_scales(DISTANCE, SIGMA_S)
    known = preconditioning(torch.full((64,), time))
    r, v = (1 - time) * n + time * d, d - n
    left = (v - known.c_skip * r) / known.c_out
    torch.testing.assert_close((known.c_in * r).std((0, 2, 3)), torch.ones(4), atol=0.02, rtol=0)
    torch.testing.assert_close(left.std((0, 2, 3)), torch.ones(4), atol=0.02, rtol=0)
    torch.testing.assert_close((left * known.c_in * r).mean((0, 2, 3)), torch.zeros(4), atol=0.02, rtol=0)


def test_one_step_of_an_untrained_network_removes_the_noise_exactly(untrained):
    mean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        end = euler(lambda z, t: untrained(z, z.new_full((2,), t), mean), mean + column(SIGMA_S) * noise, 1)
    torch.testing.assert_close(end, mean, atol=1e-5, rtol=0)


def test_many_steps_of_an_untrained_network_give_noise_of_the_target_s_strength(untrained):
    mean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        end = euler(lambda z, t: untrained(z, z.new_full((2,), t), mean), mean + column(SIGMA_S) * noise, 60)
    torch.testing.assert_close(end, mean + column(DISTANCE) * noise, atol=0.4, rtol=0)


def test_the_network_sees_state_and_mean():
    network, t = tiny(CONDITIONED), torch.tensor([0.5])
    x_t, mean = torch.randn(1, 4, 24, 24), torch.randn(1, 4, 24, 24)
    velocity = network(x_t, t, mean)
    assert velocity.shape == x_t.shape
    other = torch.randn(1, 4, 24, 24)
    shifted = network(x_t + other, t, mean + other)  # the same offset from another mean
    assert not torch.allclose(velocity, shifted, atol=1e-3)


def test_mean_and_network_go_together():
    x = torch.zeros(1, 4, 24, 24)
    for network, given in ((tiny(CONDITIONED), ()), (tiny(HDIT), (x,))):
        with pytest.raises(ValueError, match="source_mean"):
            network(x, torch.zeros(1), *given)
    with pytest.raises(ValueError, match="time_convention"):
        HDiT(dataclasses.replace(CONDITIONED, time_convention="sigma"))


def test_a_source_without_noise_is_refused():
    for distance, sigma_s in ((DISTANCE, torch.zeros(1)), (torch.zeros(4), SIGMA_S)):
        with pytest.raises(ValueError, match="positive"):
            Preconditioning(4).set_scales(distance, sigma_s)


def test_the_scales_are_part_of_the_checkpoint(untrained):
    again = HDiT(CONDITIONED)
    again.load_state_dict(untrained.state_dict())
    torch.testing.assert_close(again.preconditioning.distance.flatten(), DISTANCE)
    torch.testing.assert_close(again.preconditioning.sigma_s.flatten(), SIGMA_S)


def test_on_the_straight_path_the_mean_is_the_middle_of_the_offsets():
    mean, d, n = torch.randn(3, 4, 8, 8).unbind(0)
    point = sample_path((mean + n)[None], (mean + d)[None], torch.tensor([0.25]))
    torch.testing.assert_close(point.x_t - mean, (0.75 * n + 0.25 * d)[None])
