"""Blocks of Sim-VAE, and those of the autoencoders it is compared with (paper, section 3.3 and table 2).

Sim-VAE's choices are the defaults: one pixel-wise LayerNorm in a residual block, no attention, and a width that changes
only in the resizing layers. SD-VAE (Rombach et al., 2022) has the others.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from latent_pmrf.config import SimVAEConfig, VAENorm
from latent_pmrf.nets.layers import ChannelLayerNorm, zero_init

_GROUPS = 32


def make_norm(width: int, norm: VAENorm) -> nn.Module:
    """LayerNorm over the channels of a pixel, or GroupNorm over 32 groups and all pixels."""
    if norm == "layer":
        return ChannelLayerNorm(width, eps=1e-6)
    return nn.GroupNorm(min(_GROUPS, width), width, eps=1e-6)


class ResidualBlock(nn.Module):
    """`x + conv2(silu(conv1(norm(x))))`.

    Args:
        width: Channels of the input.
        out_width: Channels of the output; another width than the input's needs a 1x1 convolution on the skip.
        norm: Kind of normalisation.
        two_norms: SD-VAE's block, `x + conv2(silu(norm2(conv1(silu(norm(x))))))`.
    """

    def __init__(
        self, width: int, out_width: int | None = None, norm: VAENorm = "layer", *, two_norms: bool = False
    ) -> None:
        super().__init__()
        out_width = out_width or width
        self.norm = make_norm(width, norm)
        self.conv1 = nn.Conv2d(width, out_width, 3, padding=1)
        self.norm2 = make_norm(out_width, norm) if two_norms else None
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.shortcut = None if out_width == width else nn.Conv2d(width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        skip = x if self.shortcut is None else self.shortcut(x)
        if self.norm2 is None:
            return skip + self.conv2(F.silu(self.conv1(self.norm(x))))
        return skip + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm(x))))))


class SelfAttention(nn.Module):
    """`x + out(attention(norm(x)))`, one head over all positions, as in the middle of SD-VAE."""

    def __init__(self, width: int, norm: VAENorm) -> None:
        super().__init__()
        self.norm = make_norm(width, norm)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = zero_init(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        batch, width, height, breadth = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, 1, width, height * breadth).transpose(3, 4)  # (B, 3, 1, HW, C)
        mixed = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return x + self.out(mixed.transpose(2, 3).reshape(batch, width, height, breadth))


class Downsampler(nn.Module):
    """Halves the resolution and changes the width with one strided convolution."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out_width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/2, W/2)."""
        return self.conv(x)


class Upsampler(nn.Module):
    """Doubles the resolution (nearest) and changes the width with one convolution."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, then at most one resizing layer."""

    def __init__(self, blocks: list[nn.Module], resize: Downsampler | Upsampler | None = None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(blocks)
        self.downsampler = resize if isinstance(resize, Downsampler) else None
        self.upsampler = resize if isinstance(resize, Upsampler) else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        for block in self.resnets:
            x = block(x)
        for resize in (self.downsampler, self.upsampler):
            x = x if resize is None else resize(x)
        return x


def make_levels(
    config: SimVAEConfig, widths: tuple[int, ...], blocks: int, resize: type[Downsampler | Upsampler]
) -> nn.ModuleList:
    """One level per width, each but the last with a resizing layer after it.

    With `resizing="separate"` that layer leads to the next width; with `in_block` it keeps the width, and the first
    residual block of the next level changes it.
    """
    separate = config.resizing == "separate"
    levels = nn.ModuleList()
    for index, width in enumerate(widths):
        before = width if separate or index == 0 else widths[index - 1]
        following = widths[index + 1] if separate and index + 1 < len(widths) else width
        level: list[nn.Module] = [_block(config, before if block == 0 else width, width) for block in range(blocks)]
        levels.append(Level(level, resize(width, following) if index + 1 < len(widths) else None))
    return levels


def make_middle(config: SimVAEConfig) -> Level:
    """The blocks at the lowest resolution; with `mid_attention` every second one is self-attention."""
    width = config.block_out_channels[-1]
    attention = [config.mid_attention and index % 2 == 1 for index in range(config.layers_mid_block)]
    return Level(
        [SelfAttention(width, config.norm) if attends else _block(config, width, width) for attends in attention]
    )


def _block(config: SimVAEConfig, width: int, out_width: int) -> ResidualBlock:
    return ResidualBlock(width, out_width, config.norm, two_norms=config.two_norms)
