"""The opponent of an adversarial finish: it tells the detail of clean faces from the detail that a flow adds.

Detail is the way from the latent of the posterior mean to a face, over the distance that is usual in each channel: fine
texture, which carries little energy, then counts as much as a cheek's shade. The discriminator sees the posterior mean
too, so what it judges is whether the detail belongs to this face.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latent_pmrf.nets.layers import channels_last

_SLOPE = 0.2
_SHIFT = 1 / 8
_CUTOUT = 1 / 2


@dataclass(frozen=True, slots=True)
class Judged:
    """Rows that the discriminator compares; each (B, C, h, w) float32.

    Attributes:
        clean: Detail of the clean faces.
        made: Detail that the flow made for the same photographs.
        mean: Normalised latents of their posterior means.
    """

    clean: Tensor
    made: Tensor
    mean: Tensor

    def detached(self) -> Judged:
        """The same rows without their history."""
        return Judged(self.clean.detach(), self.made.detach(), self.mean.detach())

    def beside(self, other: Judged) -> Judged:
        """The rows of both."""
        return Judged(
            torch.cat([self.clean, other.clean]), torch.cat([self.made, other.made]), torch.cat([self.mean, other.mean])
        )


class Discriminator(nn.Module):
    """A convolutional network of residual blocks at falling resolutions, without normalisation.

    Args:
        channels: C of the detail and of the mean.
        widths: Channels of each resolution, the first at that of the latent.
        depths: Residual blocks of each resolution.
    """

    def __init__(
        self, channels: int, widths: tuple[int, ...] = (64, 128, 192), depths: tuple[int, ...] = (1, 2, 2)
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            layers += [nn.AvgPool2d(2)] if level else []
            layers.append(nn.Conv2d(widths[level - 1] if level else 2 * channels, width, 3, padding=1))
            layers += [_Residual(width) for _ in range(depth)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)
        channels_last(self)

    def forward(self, detail: Tensor, mean: Tensor) -> Tensor:
        """Logits (B,) of details (B, C, h, w) over means (B, C, h, w): the larger, the more like a clean face's."""
        features = self.body(torch.cat([detail, mean], dim=1).contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(F.leaky_relu(features, _SLOPE)).float().mean((1, 2, 3))
        return logits


class _Residual(nn.Module):
    """Two convolutions beside a shortcut; the identity at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, W, h, w) to (B, W, h, w)."""
        x_inner = self.first(F.leaky_relu(x, _SLOPE))
        return x + self.second(F.leaky_relu(x_inner, _SLOPE))


def augmented(judged: Judged, generator: torch.Generator) -> Judged:
    """The same rows, each shifted by up to an eighth of its side and with a square of half the side cut out.

    What is shifted in and what is cut out is zero, in clean and made rows alike, so the discriminator cannot know few
    faces by heart, and the flow is not taught the changes (Zhao et al., "Differentiable augmentation for data-efficient
    GAN training", 2020).

    Args:
        judged: The rows; gradients flow through.
        generator: Of the places, on the CPU.
    """
    rows, _, height, width = judged.clean.shape
    device = judged.clean.device
    shift = (torch.rand(rows, 2, generator=generator) * 2 - 1) * _SHIFT
    corner = torch.rand(rows, 2, generator=generator) * (1 + _CUTOUT) - _CUTOUT
    x, y = ((torch.arange(side) + 0.5) / side for side in (width, height))
    from_x = x + (shift[:, :1] * width).round() / width  # (B, w)
    from_y = y + (shift[:, 1:] * height).round() / height
    # Not by affine_grid, a product, which autocast would round.
    grid = torch.stack([from_x[:, None].expand(-1, height, -1), from_y[:, :, None].expand(-1, -1, width)], dim=-1)
    grid = (2 * grid - 1).to(device)
    cut_x = (x > corner[:, :1]) & (x < corner[:, :1] + _CUTOUT)
    cut_y = (y > corner[:, 1:]) & (y < corner[:, 1:] + _CUTOUT)
    kept = (~(cut_y[:, :, None] & cut_x[:, None])).float()[:, None].to(device)

    def moved(x: Tensor) -> Tensor:
        return F.grid_sample(x, grid, mode="nearest", align_corners=False) * kept

    return Judged(moved(judged.clean), moved(judged.made), moved(judged.mean))


def relativistic(winner: Tensor, loser: Tensor) -> Tensor:
    """Mean of `softplus(loser - winner)` over logits (B,) of the same photographs.

    The discriminator wants clean faces to win, the flow wants its own to (Jolicoeur-Martineau, "The relativistic
    discriminator", 2019).
    """
    return F.softplus(loser - winner).mean()


def discriminator_loss(network: nn.Module, judged: Judged, penalty_weight: float) -> Tensor:
    """The relativistic loss, with half of `penalty_weight` times the squared gradients at clean and at made details.

    The penalties (R1 and R2) are what lets the game converge (Huang et al., "The GAN is dead; long live the GAN!",
    2024).

    Args:
        network: The discriminator.
        judged: The rows; no gradient goes back to where they come from.
        penalty_weight: Of the penalties; 0 saves their cost, which is that of a second backward pass.
    """
    penalised = penalty_weight > 0
    details = [detail.detach().requires_grad_(penalised) for detail in (judged.clean, judged.made)]
    logits = [network(detail, judged.mean) for detail in details]
    loss = relativistic(*logits)
    if penalised:
        for detail, logit in zip(details, logits, strict=True):
            (gradient,) = torch.autograd.grad(logit.sum(), detail, create_graph=True)
            loss = loss + penalty_weight / 2 * gradient.square().sum((1, 2, 3)).mean()
    return loss
