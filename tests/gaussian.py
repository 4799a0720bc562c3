"""Restoration of Gaussian data, where every quantity of the theory is a matrix.

`x ~ N(mean, data)` is degraded to `y = degradation x + noise`. The posterior mean, the least error, the Wasserstein
distance, the optimal transport and the velocity of the rectified flow are then closed form (Freirich et al., 2021).
Everything is float64; errors are per image, not per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latent_pmrf.flow.solver import euler


@dataclass(frozen=True, slots=True)
class Moments:
    """What the flow sees of a problem, in pixels or in latents.

    Attributes:
        data: (d, d) covariance of the data.
        estimate: (d, d) covariance of the posterior mean, which is also its covariance with the data.
    """

    data: Tensor
    estimate: Tensor

    @property
    def error(self) -> Tensor:
        """(d, d) covariance of the data given the degraded observation."""
        return self.data - self.estimate

    @property
    def least_mse(self) -> float:
        """D*, the error of the posterior mean."""
        return float(self.error.trace())

    @property
    def optimum(self) -> float:
        """D* + W2^2, the least error of an estimator whose outputs are distributed like the data (paper, eq. 5)."""
        return self.least_mse + w2_squared(self.estimate, self.data)

    def mse(self, matrix: Tensor, sigma_s: float = 0.0) -> float:
        """Error of the estimator that moves `x* + sigma_s noise` by `matrix`, seen from the mean (paper, eq. 4)."""
        moved = identity(len(matrix)) - matrix
        spent = moved @ self.estimate @ moved.T + sigma_s**2 * matrix @ matrix.T
        return self.least_mse + float(spent.trace())

    def source(self, sigma_s: float = 0.0) -> Tensor:
        """(d, d) covariance of the posterior mean with the noise of the source."""
        return self.estimate + sigma_s**2 * identity(len(self.data))

    def output(self, matrix: Tensor, sigma_s: float = 0.0) -> Tensor:
        """(d, d) covariance of what that estimator gives."""
        return matrix @ self.source(sigma_s) @ matrix.T

    def velocity(self, t: float, sigma_s: float = 0.0) -> Tensor:
        """(d, d) B of the exact velocity `E[x_1 - x_0 | x_t] = B (x_t - mean)`.

        `x_1 - x_0` is `(x - x*) - sigma_s noise`, and the posterior mean is uncorrelated with its error `x - x*`.
        """
        noise = (1 - t) * sigma_s**2 * identity(len(self.data))
        point = self.estimate + t**2 * self.error + (1 - t) * noise
        return (t * self.error - noise) @ torch.linalg.pinv(point, hermitian=True)

    def through(self, encoder: Tensor) -> Moments:
        """The same problem in the latents `encoder x`."""
        return Moments(encoder @ self.data @ encoder.T, encoder @ self.estimate @ encoder.T)


@dataclass(frozen=True, slots=True)
class Problem:
    """Gaussian data and how they are degraded.

    Attributes:
        mean: (d,) of the data.
        data: (d, d) their covariance.
        degradation: (k, d).
        noise_std: Of the noise in the observation.
    """

    mean: Tensor
    data: Tensor
    degradation: Tensor
    noise_std: float

    @property
    def normals(self) -> int:
        """How many standard normals `draw` uses per image."""
        return sum(self.degradation.shape)

    @property
    def gain(self) -> Tensor:
        """(d, k) K of the posterior mean `mean + K (y - degradation mean)`."""
        crossed = self.data @ self.degradation.T
        observed = self.degradation @ crossed + self.noise_std**2 * identity(len(self.degradation))
        return torch.linalg.solve(observed, crossed, left=False)

    @property
    def moments(self) -> Moments:
        """Covariances of the data and of the posterior mean."""
        estimate = self.gain @ self.degradation @ self.data
        return Moments(self.data, (estimate + estimate.T) / 2)

    def draw(self, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, d) and degraded observations (n, k) made of (n, `normals`) standard normals."""
        x = self.mean + normals[:, : len(self.mean)] @ root(self.data)
        return x, x @ self.degradation.T + self.noise_std * normals[:, len(self.mean) :]

    def estimate(self, y: Tensor) -> Tensor:
        """Posterior means (n, d) of observations (n, k)."""
        return self.mean + (y - self.degradation @ self.mean) @ self.gain.T


def blurred() -> Problem:
    """Stationary data on a ring, blurred: data, blur and error have one set of axes, the Fourier modes."""
    distance = torch.minimum(torch.arange(8), 8 - torch.arange(8)).double()
    blur = torch.tensor([0.6, 0.2, 0, 0, 0, 0, 0, 0.2], dtype=torch.float64)
    return Problem(torch.linspace(-1, 1, 8, dtype=torch.float64), ring((-distance / 1.5).exp()), ring(blur), 0.2)


def uneven() -> Problem:
    """The same data, of which half the pixels are seen ten times weaker: data and error have different axes."""
    weights = torch.tensor([1.0] * 4 + [0.1] * 4, dtype=torch.float64)
    return Problem(blurred().mean, blurred().data, weights.diag(), 0.3)


def halved() -> Problem:
    """The same data at half the resolution: four of eight directions of the posterior mean are constant."""
    pairs = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    return Problem(blurred().mean, blurred().data, torch.kron(identity(4), pairs), 0.1)


def ring(row: Tensor) -> Tensor:
    """(d, d) circulant matrix of its first row."""
    return torch.stack([row.roll(k) for k in range(len(row))])


def identity(size: int) -> Tensor:
    """(size, size) in float64."""
    return torch.eye(size, dtype=torch.float64)


def root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def w2_squared(first: Tensor, second: Tensor) -> float:
    """Squared Wasserstein-2 distance of Gaussians of one mean with these covariances (Bures), also singular ones."""
    middle = root(first)
    return float((first + second - 2 * root(middle @ second @ middle)).trace())


def optimal_map(source: Tensor, target: Tensor) -> Tensor:
    """(d, d) matrix that carries `N(0, source)` to `N(0, target)` at the least cost; `source` must be regular."""
    middle = root(source)
    inverse = torch.linalg.inv(middle)
    return inverse @ root(middle @ target @ middle) @ inverse


def flow_map(moments: Moments, num_steps: int, sigma_s: float = 0.0) -> Tensor:
    """(d, d) matrix of the exact flow in our solver: a linear field moves the unit vectors like everything else."""
    return euler(lambda x_t, t: moments.velocity(t, sigma_s) @ x_t, identity(len(moments.data)), num_steps)


def flow_limit(moments: Moments, sigma_s: float = 0.0, num_steps: int = 500) -> Tensor:
    """The same without the solver's error of first order (Richardson)."""
    return 2 * flow_map(moments, 2 * num_steps, sigma_s) - flow_map(moments, num_steps, sigma_s)


def rotation(size: int, seed: int) -> Tensor:
    """(size, size) orthogonal matrix."""
    return torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=torch.float64))[0]


def exact_normals(count: int, size: int, seed: int = 0) -> Tensor:
    """(count, size) whose sample mean is 0 and sample covariance the identity, to rounding.

    Means over linear functions of them and their squares are expectations, not estimates.
    """
    normals = torch.randn(count, size, generator=seeded(seed), dtype=torch.float64)
    return torch.linalg.qr(normals - normals.mean(0))[0] * count**0.5


def covariance(rows: Tensor) -> Tensor:
    """(d, d) of (n, d) rows."""
    return torch.cov(rows.T, correction=0)


def mse(first: Tensor, second: Tensor) -> float:
    """Mean over images of the squared distance."""
    return float((first - second).square().flatten(1).sum(1).mean())


def seeded(seed: int) -> torch.Generator:
    """A generator that starts here."""
    return torch.Generator().manual_seed(seed)
