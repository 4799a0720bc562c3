"""Theorems 1 and 2 of the paper in closed form, where they hold and where they need more than they say."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from latent_pmrf.flow.solver import euler
from latent_pmrf.flow.statistics import LatentStatistics
from tests import gaussian, tiny_runs
from tests.gaussian import (
    covariance,
    exact_normals,
    flow_limit,
    flow_map,
    identity,
    mse,
    optimal_map,
    rotation,
    w2_squared,
)

BLURRED, UNEVEN = gaussian.blurred(), gaussian.uneven()
every_problem = pytest.mark.parametrize("problem", [BLURRED, UNEVEN], ids=["blurred", "uneven"])
# Singular values 0.5 to 2, in directions that have nothing to do with the data.
SKEWED = rotation(8, 1) @ torch.linspace(0.5, 2, 8, dtype=torch.float64).diag() @ rotation(8, 2)
FOURIER = torch.linalg.eigh(BLURRED.data)[1]


@dataclass(frozen=True)
class LinearVAE:
    """Latents `encoder (x - centre)`, images `decoder z + centre`."""

    encoder: torch.Tensor
    decoder: torch.Tensor
    centre: torch.Tensor

    def encode(self, x):
        return (x - self.centre) @ self.encoder.T

    def decode(self, z):
        return z @ self.decoder.T + self.centre

    def latent_transport(self, moments):
        """The optimal map between the latents of the posterior mean and those of the data (the paper's T_lat)."""
        latent = moments.through(self.encoder)
        return optimal_map(latent.estimate, latent.data)

    def transport(self, moments):
        """What encoding, T_lat and decoding do to the posterior mean."""
        return self.decoder @ self.latent_transport(moments) @ self.encoder


def invertible(encoder):
    return LinearVAE(encoder, torch.linalg.inv(encoder), torch.zeros(8, dtype=torch.float64))


def parts(x, reconstruction, output):
    """The three terms of theorem 2."""
    crossed = 2 * ((x - reconstruction) * (reconstruction - output)).flatten(1).sum(1).mean()
    return mse(x, reconstruction), mse(reconstruction, output), float(crossed)


# Theorem 1


@every_problem
def test_isometric_latents_have_the_transport_and_the_optimum_of_pixels(problem):
    moments, vae = problem.moments, invertible(rotation(8, 5))
    latent = moments.through(vae.encoder)
    assert latent.optimum == pytest.approx(moments.optimum, rel=1e-12)
    torch.testing.assert_close(vae.transport(moments), optimal_map(moments.estimate, moments.data))
    assert moments.mse(vae.transport(moments)) == pytest.approx(moments.optimum, rel=1e-12)


@every_problem
def test_transport_in_skewed_latents_reaches_the_data_above_the_optimum(problem):
    moments, vae = problem.moments, invertible(SKEWED)
    reached = vae.transport(moments)
    torch.testing.assert_close(moments.output(reached), moments.data)
    assert moments.mse(reached) > 1.03 * moments.optimum


def test_an_isometry_is_more_than_the_optimum_needs():
    # Stretching along axes that data and error share leaves the transport as it was.
    stretched = invertible(torch.linspace(0.2, 5, 8, dtype=torch.float64).diag() @ FOURIER.T)
    assert BLURRED.moments.mse(stretched.transport(BLURRED.moments)) == pytest.approx(BLURRED.moments.optimum, rel=1e-9)


def flow_through(vae, problem, y, num_steps):
    """Estimate, encode, normalise per channel, flow, and back: the product's chain with the exact field."""
    latent = problem.moments.through(vae.encoder)
    std = latent.data.diag().sqrt()
    statistics = LatentStatistics(tuple(vae.encode(problem.mean).tolist()), tuple(std.tolist()), (0.0,))
    normalised = latent.through((1 / std).diag())
    z_0 = statistics.normalise(vae.encode(problem.estimate(y))[:, :, None, None])
    z_1 = euler(lambda z_t, t: torch.einsum("ij,bjhw->bihw", normalised.velocity(t), z_t), z_0, num_steps)
    return vae.decode(statistics.denormalise(z_1)[:, :, 0, 0])


@every_problem
@pytest.mark.parametrize("encoder", [rotation(8, 5), SKEWED], ids=["isometric", "skewed"])
def test_flow_without_source_noise_is_the_same_in_all_linear_latents(problem, encoder):
    # The velocity is a conditional mean, which follows every linear change of axes, the normalisation included.
    _, y = problem.draw(exact_normals(256, problem.normals))
    in_pixels = problem.mean + (problem.estimate(y) - problem.mean) @ flow_map(problem.moments, num_steps=7).T
    torch.testing.assert_close(flow_through(invertible(encoder), problem, y, num_steps=7), in_pixels)


@every_problem
def test_source_noise_costs_the_same_in_isometric_latents_and_not_in_skewed_ones(problem):
    sigma_s, moments = 0.1, problem.moments

    def error(encoder):
        decoded = torch.linalg.inv(encoder) @ flow_limit(moments.through(encoder), sigma_s)
        return moments.mse(decoded @ encoder) + sigma_s**2 * float(decoded.square().sum())

    in_pixels = moments.mse(flow_limit(moments, sigma_s), sigma_s)
    assert error(rotation(8, 5)) == pytest.approx(in_pixels, rel=1e-9)
    assert error(SKEWED) > 1.002 * in_pixels


# The source: the latent of the posterior mean, not the mean of latents (appendix A.2)


def test_mean_of_latents_is_another_source_once_the_encoder_bends():
    # With x = log z, the mean of latents decodes to the posterior mean plus half the variance of the error.
    estimate, error_std = np.array([-0.5, 0.0, 1.0]), 0.7
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    latents = np.exp(estimate[:, None] + error_std * nodes)
    mean_of_latents = latents @ weights / weights.sum()
    np.testing.assert_allclose(np.log(mean_of_latents) - estimate, error_std**2 / 2, rtol=1e-12)
    np.testing.assert_allclose(np.log(np.exp(estimate)), estimate, atol=1e-15)


# Theorem 2


def stages(vae, problem, transport):
    """Clean images, posterior means, their reconstructions, and the outputs after a linear map of the latents."""
    x, y = problem.draw(exact_normals(256, problem.normals))
    estimate = problem.estimate(y)
    z = vae.encode(estimate)
    return x, estimate, vae.decode(z), vae.decode(z @ transport.T)


@every_problem
@pytest.mark.parametrize("seed", [0, 1])
def test_total_error_is_reconstruction_and_transport_and_what_they_share(problem, seed):
    # Whatever encoder, decoder and transport; and with D* on top it is the error over the clean image.
    encoder, decoder, transport = torch.randn(3, 8, 8, generator=gaussian.seeded(seed), dtype=torch.float64)
    vae = LinearVAE(encoder, decoder, torch.zeros(8, dtype=torch.float64))
    x, estimate, reconstruction, output = stages(vae, problem, transport)
    terms = parts(estimate, reconstruction, output)
    assert sum(terms) == pytest.approx(mse(estimate, output), rel=1e-12)
    assert problem.moments.least_mse + sum(terms) == pytest.approx(mse(x, output), rel=1e-12)


@every_problem
def test_terms_are_the_closed_form(problem):
    moments, vae = problem.moments, LinearVAE(SKEWED, SKEWED.T, problem.mean)
    _, estimate, reconstruction, output = stages(vae, problem, vae.latent_transport(moments))
    lost = identity(8) - vae.decoder @ vae.encoder
    moved = vae.decoder @ vae.encoder - vae.transport(moments)
    expected = [
        (lost @ moments.estimate @ lost.T).trace(),
        (moved @ moments.estimate @ moved.T).trace(),
        2 * (lost @ moments.estimate @ moved.T).trace(),
    ]
    assert parts(estimate, reconstruction, output) == pytest.approx([float(term) for term in expected], rel=1e-9)


def test_decomposition_holds_for_our_autoencoder():
    vae = tiny_runs.tiny(tiny_runs.VAE).double()
    x = 2 * torch.rand(3, 3, 32, 32, generator=gaussian.seeded(0), dtype=torch.float64) - 1
    with torch.inference_mode():
        z = vae.encode(x)[0]
        reconstruction, output = vae.decode(z), vae.decode(euler(lambda z_t, t: torch.sin(3 * z_t) + t, z, 5))
    terms = parts(x, reconstruction, output)
    assert min(terms[:2]) > 0
    assert sum(terms) == pytest.approx(mse(x, output), rel=1e-12)


@every_problem
def test_reconstruction_error_is_a_floor_where_the_autoencoder_projects(problem):
    kept = rotation(8, 6)[:, :5]
    vae = LinearVAE(kept.T, kept, problem.mean)
    latent = problem.moments.through(vae.encoder)
    _, estimate, reconstruction, output = stages(vae, problem, vae.latent_transport(problem.moments))
    inherent, spent, crossed = parts(estimate, reconstruction, output)
    assert inherent > 0.1
    assert spent == pytest.approx(w2_squared(latent.estimate, latent.data), rel=1e-9)
    assert crossed == pytest.approx(0, abs=1e-12)
    assert mse(estimate, output) == pytest.approx(inherent + spent, rel=1e-12)


def test_reconstruction_error_is_no_floor_in_general():
    # The decoder gives half of what went in, the transport doubles: what they share cancels both errors.
    problem = gaussian.Problem(BLURRED.mean, identity(8), identity(8), 3**0.5)
    vae = LinearVAE(identity(8), identity(8) / 2, problem.mean)
    _, estimate, reconstruction, output = stages(vae, problem, vae.latent_transport(problem.moments))
    inherent, spent, crossed = parts(estimate, reconstruction, output)
    assert inherent == pytest.approx(0.5, rel=1e-12)
    assert crossed == pytest.approx(-inherent - spent, rel=1e-12)
    assert mse(estimate, output) == pytest.approx(0, abs=1e-12)


def test_reconstruction_of_the_estimate_does_not_show_what_the_data_lose():
    # All that the posterior mean can be comes through unharmed; half the directions that the flow should fill do not.
    problem = gaussian.halved()
    smooth = torch.linalg.eigh(problem.moments.estimate)[1][:, 4:]
    vae = LinearVAE(smooth.T, smooth, problem.mean)
    x, estimate, reconstruction, output = stages(vae, problem, vae.latent_transport(problem.moments))
    assert mse(estimate, reconstruction) == pytest.approx(0, abs=1e-12)
    assert mse(x, output) < 0.9 * problem.moments.optimum
    assert w2_squared(covariance(output), problem.data) > 0.5 * w2_squared(problem.moments.estimate, problem.data)
