"""The method in one page of PyTorch, and the reference that every exported bundle is held against.

    y -> estimator -> clamp -> encode -> normalise -> + sigma_s * noise -> K Euler steps -> denormalise -> decode

In pixel space (PMRF) there is no autoencoder: the latent is the image itself, in [0, 1]. Noise comes from the caller,
so that the same noise can be given to the exported networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latent_pmrf.flow.solver import euler
from latent_pmrf.flow.source import add_source_noise
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.hdit import HDiT
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.nets.swinir import SwinIR
from latent_pmrf.nets.unet import UNet


@dataclass(frozen=True, slots=True)
class Restored:
    """Restored faces, each (B, 3, S, S) in [0, 1].

    Attributes:
        sample: The end of the flow, decoded.
        posterior_mean: The estimator's output.
    """

    sample: Tensor
    posterior_mean: Tensor


class Restorer:
    """The networks behind the steps of the method (paper, section 3.1 and figure 2).

    Args:
        estimator: Degraded image in [0, 1] to the posterior mean.
        vae: Image in [-1, 1] to latent and back; None in pixel space.
        velocity: Velocity in the normalised latent space.
        statistics: What normalises the latent, and the source noise.

    Raises:
        ValueError: The networks and the statistics disagree about the channels of the latent.
    """

    def __init__(
        self, estimator: SwinIR | UNet, vae: SimVAE | None, velocity: HDiT, statistics: LatentStatistics
    ) -> None:
        image_channels = estimator.config.image_channels
        channels = {
            "the autoencoder" if vae else "the image": vae.config.latent_channels if vae else image_channels,
            "the velocity": velocity.config.in_channels,
            "the latent mean": len(statistics.mean),
            "the latent std": len(statistics.std),
        }
        if len(set(channels.values())) > 1:
            raise ValueError(f"channels of the latent differ: {channels}")
        self.estimator = estimator
        self.vae = vae
        self.velocity = velocity
        self.statistics = statistics

    def state_shape(self, size_px: int) -> tuple[int, int, int]:
        """(C, h, w) of the flow's states for square images of this side."""
        cells = size_px if self.vae is None else size_px // self.vae.config.downscale
        return self.velocity.config.in_channels, cells, cells

    @torch.inference_mode()
    def restore(self, y: Tensor, noise: Tensor, num_steps: int) -> Restored:
        """Restore aligned faces.

        Args:
            y: Degraded faces (B, 3, S, S) in [0, 1].
            noise: Standard normal (B, C, h, w), see `state_shape`.
            num_steps: Euler steps, at least 1.
        """
        posterior_mean = self.estimate(y)
        mean = self.encode(posterior_mean)
        x_0 = add_source_noise(mean, self.statistics.sigma_s, noise)
        return Restored(self.decode(self.integrate(x_0, num_steps, mean)), posterior_mean)

    @torch.inference_mode()
    def estimate(self, y: Tensor) -> Tensor:
        """Posterior mean of (B, 3, S, S) images in [0, 1]; same shape and range."""
        return self.estimator(y).clamp(0, 1)

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) of (B, 3, S, S) images in [0, 1]: the mean of the encoder's posterior."""
        return self.statistics.normalise(image if self.vae is None else self.vae.encode(2 * image - 1)[0])

    @torch.inference_mode()
    def integrate(self, x_0: Tensor, num_steps: int, source_mean: Tensor | None = None) -> Tensor:
        """The normalised latents (B, C, h, w) at the end of the flow from the source `x_0`.

        Args:
            x_0: Source (B, C, h, w).
            num_steps: Euler steps, at least 1.
            source_mean: The source without its noise; only a `mean_conditioned` velocity needs it.
        """
        given = (source_mean,) if self.velocity.config.mean_conditioned else ()

        def velocity(x_t: Tensor, t: float) -> Tensor:
            return self.velocity(x_t, x_t.new_full((len(x_t),), t), *given)

        return euler(velocity, x_0, num_steps)

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """(B, 3, S, S) images in [0, 1] of normalised latents (B, C, h, w)."""
        raw = self.statistics.denormalise(z)
        return (raw if self.vae is None else self.vae.decode(raw) / 2 + 0.5).clamp(0, 1)
