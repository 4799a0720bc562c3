"""The whole pipelines of PMRF and Latent-PMRF give the numbers of the public code, at every station of the way."""

import pytest
import torch

from latent_pmrf.flow.source import add_source_noise
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.public_specs import looformer_spec, pmrf_spec, sim_vae_spec, swinir_spec
from latent_pmrf.restorer import Restorer
from tests.contract.parity_files import TINY, arrays, assert_close, config_file, parity_folder, tiny_network

PIXEL_ATOL = 3e-4


def unit_statistics(channels, sigma_s):
    return LatentStatistics((0.0,) * channels, (1.0,) * channels, tuple(sigma_s.tolist()))


@pytest.mark.parametrize(
    ("name", "make"),
    [("swinir", swinir_spec), ("sim_vae", sim_vae_spec), ("hdit", pmrf_spec), ("looformer", looformer_spec)],
)
def test_public_configurations_are_understood(name, make):
    assert make(config_file(parity_folder(name), "config_tiny")) == TINY[name]
    assert make(config_file(parity_folder(name), "config_full")) == make({})


def test_pmrf_at_every_station():
    reference = arrays(parity_folder("hdit"), "restore")
    restorer = Restorer(tiny_network("swinir"), None, tiny_network("hdit"), unit_statistics(3, torch.tensor([0.1])))
    assert_close(restorer.estimator(reference["y"]), reference["swinir_out"])
    mean = restorer.estimate(reference["y"])
    assert_close(mean, reference["posterior_mean"])
    x_0 = add_source_noise(restorer.encode(mean), restorer.statistics.sigma_s, reference["noise"])
    assert_close(x_0, reference["x_source"])
    steps = int(reference["steps"])
    x_1 = restorer.integrate(x_0, steps)
    assert_close(x_1, reference["unclipped"], PIXEL_ATOL)
    assert_close(restorer.decode(x_1), reference["result"], PIXEL_ATOL)
    whole = restorer.restore(reference["y"], reference["noise"], steps)
    assert_close(whole.posterior_mean, reference["posterior_mean"])
    assert_close(whole.sample, reference["result"], PIXEL_ATOL)


@pytest.fixture
def latent():
    reference = arrays(parity_folder("looformer"), "restore")
    statistics = unit_statistics(8, reference["noise_std"])
    networks = [tiny_network(name) for name in ("swinir", "sim_vae", "looformer")]
    return reference, Restorer(*networks, statistics)


def posterior_spread(moments, eps):
    """The public code starts from a sample of the encoder's posterior; ours from its mean, so this is noise to us."""
    return (moments.chunk(2, dim=1)[1].clamp(-30, 20) / 2).exp() * eps


def test_latent_pmrf_at_every_station(latent):
    reference, restorer = latent
    mean = restorer.estimate(reference["y01"])
    assert_close(mean, reference["posterior_mean01"])
    assert_close(restorer.vae.encoder(2 * mean - 1), reference["moments"])
    spread = posterior_spread(reference["moments"], reference["eps_posterior"])
    x_0 = add_source_noise(restorer.encode(mean) + spread, restorer.statistics.sigma_s, reference["noise"])
    assert_close(x_0, reference["x_source"])
    x_1 = restorer.integrate(x_0, int(reference["steps"]))
    assert_close(x_1, reference["latent_result"])
    assert_close(restorer.vae.decode(reference["latent_result"]), reference["decoded"])
    assert_close(restorer.decode(x_1), reference["result01"])


def test_latent_pmrf_in_one_call(latent):
    reference, restorer = latent
    spread = posterior_spread(reference["moments"], reference["eps_posterior"])
    noise = reference["noise"] + spread / float(reference["noise_std"])
    restored = restorer.restore(reference["y01"], noise, int(reference["steps"]))
    assert_close(restored.posterior_mean, reference["posterior_mean01"])
    assert_close(restored.sample, reference["result01"])
