"""The source of the flow: the latent of the posterior mean (paper, appendix A.2), plus a little noise, as in PMRF."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def add_source_noise(z: torch.Tensor, sigma_s: Sequence[float], noise: torch.Tensor) -> torch.Tensor:
    """Add Gaussian noise to the latent of the posterior mean.

    Args:
        z: (B, C, h, w) normalised latent of the posterior mean.
        sigma_s: Standard deviation, one number or one per channel. A single number is PMRF's; in latents whose
            channels differ in how far the flow must move them, one number blurs nothing in some and drowns others.
        noise: (B, C, h, w) standard normal.

    Raises:
        ValueError: `sigma_s` has neither one entry nor one per channel.
    """
    if len(sigma_s) not in (1, z.shape[1]):
        raise ValueError(f"sigma_s has {len(sigma_s)} entries for {z.shape[1]} channels")
    return z + z.new_tensor(list(sigma_s)).view(1, -1, 1, 1) * noise
