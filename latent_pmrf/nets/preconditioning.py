"""What is known of the velocity before any learning, when the network sees the mean of the source as well.

The source is `z_0 = m + n` with the known mean `m` (the latent of the posterior mean) and noise `n`, the target is
`z_1 = m + d`. A state is `z_t = m + r` with `r = (1 - t) n + t d`, and the velocity is `d - n`. Were `d` and `n`
independent white noise of deviations `distance` and `sigma_s`, the best guess would be linear in `r`, and what is left
would have a known deviation too. The network is asked for the rest, in units of that deviation, and is shown `r` at
deviation one (as Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, do for
denoisers): at its zero initialisation it removes the source's noise exactly and adds noise of the right strength where
detail belongs. Not of the paper; measured against it in docs/EXPERIMENTS.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Factors (B, C, 1, 1) at the times of a batch.

    Attributes:
        c_in: Brings `r` to deviation one.
        c_skip: The linear guess of the velocity, over `r`.
        c_out: Deviation of what is left of the velocity.
    """

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor


class Preconditioning(nn.Module):
    """Coefficients per channel as functions of time.

    Buffers `distance` and `sigma_s` (C, 1, 1) are set by `set_scales`; they are part of the checkpoint.
    """

    distance: Tensor
    sigma_s: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("distance", torch.ones(channels, 1, 1))
        self.register_buffer("sigma_s", torch.full((channels, 1, 1), 0.1))

    def set_scales(self, distance: Tensor, sigma_s: Tensor) -> None:
        """Deviations (C,) of target and source from their common mean, in the flow's units; `sigma_s` may be (1,).

        Raises:
            ValueError: A deviation is not positive: without noise the source is known, and there is nothing to learn.
        """
        if not (bool((distance > 0).all()) and bool((sigma_s > 0).all())):
            raise ValueError("preconditioning needs positive source noise, and a target that differs from the source")
        self.distance.copy_(distance[:, None, None])
        self.sigma_s.copy_(sigma_s[:, None, None])

    def forward(self, t: Tensor) -> Coefficients:
        """Coefficients at times (B,) in [0, 1].

        No product of the two buffers alone: an export would fold it, and they could not be read back from the graph.
        """
        time = t[:, None, None, None]  # (B, 1, 1, 1)
        data, noise = time * self.distance, (1 - time) * self.sigma_s  # deviations of the two parts of r, (B, C, 1, 1)
        variance = data.square() + noise.square()
        c_in = variance.rsqrt()
        return Coefficients(
            c_in=c_in,
            c_skip=(data * self.distance - noise * self.sigma_s) / variance,
            c_out=c_in * self.distance * self.sigma_s,
        )
