"""A flow trained with our path, times and source against the closed form; that it is linear, nothing tells it."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from latent_pmrf.flow.path import sample_path, stratified_times
from latent_pmrf.flow.solver import euler
from latent_pmrf.flow.source import add_source_noise
from latent_pmrf.flow.statistics import LatentStatistics
from tests import gaussian
from tests.gaussian import covariance, exact_normals, identity, mse, root, rotation

PROBLEM = gaussian.blurred()
MOMENTS = PROBLEM.moments
SIGMA_S = (0.03,)
STEPS, BATCH_SIZE, EPOCHS, LR = 1000, 512, 8, 1e-2
EULER_STEPS = 100
# The exact flow with this noise and these steps ends 0.5 % above the optimum; the rest is left to training.
TOLERANCE = 0.02
TEST_NORMALS = exact_normals(4096, PROBLEM.normals + 8, seed=7)


class Velocity(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(9, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 8)
        )

    def forward(self, x_t, t):
        return self.layers(torch.cat((x_t.flatten(1), t[:, None]), 1)).view_as(x_t)


@dataclass(frozen=True)
class LatentSpace:
    """Orthogonal autoencoder and the statistics that normalise its latents, as in the product."""

    encoder: torch.Tensor

    @property
    def statistics(self):
        latent = MOMENTS.through(self.encoder).data
        mean, std = self.encoder @ PROBLEM.mean, latent.diag().sqrt()
        return LatentStatistics(tuple(mean.tolist()), tuple(std.tolist()), SIGMA_S)

    def encode(self, x):
        return self.statistics.normalise((x @ self.encoder.T).float()[:, :, None, None])

    def decode(self, z):
        return self.statistics.denormalise(z)[:, :, 0, 0].double() @ self.encoder


def trained(space, seed):
    x, y = PROBLEM.draw(exact_normals(STEPS * BATCH_SIZE // EPOCHS, PROBLEM.normals, seed))
    z_0, z_1 = space.encode(PROBLEM.estimate(y)), space.encode(x)
    torch.manual_seed(seed)
    model = Velocity()
    optimiser = torch.optim.Adam(model.parameters(), lr=LR)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=STEPS)
    generator = gaussian.seeded(seed)
    for rows in torch.arange(len(x)).repeat(EPOCHS).split(BATCH_SIZE):
        x_0 = add_source_noise(z_0[rows], SIGMA_S, torch.randn(z_0[rows].shape, generator=generator))
        point = sample_path(x_0, z_1[rows], stratified_times(BATCH_SIZE, generator))
        optimiser.zero_grad()
        (model(point.x_t, point.t) - point.v_t).square().mean().backward()
        optimiser.step()
        decay.step()
    return model.requires_grad_(False)


def restored(space, model, y, noise):
    x_0 = add_source_noise(space.encode(PROBLEM.estimate(y)), SIGMA_S, noise.float()[:, :, None, None])
    return space.decode(euler(lambda x_t, t: model(x_t, x_t.new_full((len(x_t),), t)), x_0, EULER_STEPS))


def findings(output, x):
    """Error over the optimum, distance of the means, and relative distance of the covariances, from the data."""
    apart = (covariance(output) - MOMENTS.data).norm() / MOMENTS.data.norm()
    return mse(output, x) / MOMENTS.optimum, float((output.mean(0) - PROBLEM.mean).abs().max()), float(apart)


@pytest.mark.parametrize("encoder", [identity(8), rotation(8, seed=3)], ids=["pixels", "isometric latents"])
def test_trained_flow_reaches_the_optimum(encoder):
    space = LatentSpace(encoder)
    x, y = PROBLEM.draw(TEST_NORMALS[:, :-8])
    error, mean_apart, covariance_apart = findings(restored(space, trained(space, 0), y, TEST_NORMALS[:, -8:]), x)
    assert error == pytest.approx(1, abs=TOLERANCE)
    assert mean_apart < TOLERANCE
    assert covariance_apart < TOLERANCE


def test_the_tolerances_tell_the_optimum_from_its_neighbours():
    x, y = PROBLEM.draw(TEST_NORMALS[:, :-8])
    estimate = PROBLEM.estimate(y)
    error, mean_apart, covariance_apart = findings(estimate, x)
    assert error < 1 - 5 * TOLERANCE
    assert covariance_apart > 5 * TOLERANCE
    posterior_sample = estimate + TEST_NORMALS[:, -8:] @ root(MOMENTS.error)
    error, mean_apart, covariance_apart = findings(posterior_sample, x)
    assert error > 1.5
    assert max(mean_apart, covariance_apart) < 1e-12
