"""A small convolutional U-Net as posterior-mean estimator, for budgets at which SwinIR does not get going.

Unshuffled input, residual blocks of two 3x3 convolutions with a pixel-wise LayerNorm (the block of Sim-VAE), strided
convolutions down, nearest + convolution up, additive skips, and one global attention at the lowest resolution. The
output is the input image plus a predicted residual; where that is asked for, of an image whose finest noise was taken
away (`latent_pmrf.nets.shrinkage`). Compared with SwinIR in docs/EXPERIMENTS.md.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_pmrf.config import UNetConfig
from latent_pmrf.nets.layers import ChannelLayerNorm, zero_init
from latent_pmrf.nets.shrinkage import WaveletShrinkage
from latent_pmrf.nets.vae_blocks import Downsampler, ResidualBlock, Upsampler


class GlobalAttention(nn.Module):
    """`x + out(attention(norm(x)))` over all positions, with a learnt position embedding of a fixed map."""

    def __init__(self, width: int, heads: int, cells: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = ChannelLayerNorm(width, eps=1e-6)
        self.position = nn.Parameter(torch.zeros(1, width, cells, cells))
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = zero_init(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        batch, width, height, breadth = x.shape
        qkv = self.qkv(self.norm(x) + self.position)  # (B, 3C, H, W)
        qkv = qkv.reshape(batch, 3, self.heads, width // self.heads, height * breadth).transpose(3, 4)
        mixed = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])  # (B, heads, HW, d)
        return x + self.out(mixed.transpose(2, 3).reshape(batch, width, height, breadth))


class UNet(nn.Module):
    """Estimator `y -> E[X | Y = y]`.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, folded = config.widths, config.image_channels * config.unshuffle**2
        self.shrinkage = WaveletShrinkage() if config.shrinkage else nn.Identity()
        self.conv_in = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(width, config.depth) for width in widths)
        self.downsamplers = nn.ModuleList(Downsampler(width, wider) for width, wider in pairwise(widths))
        cells = config.image_size_px // config.unshuffle // 2 ** (len(widths) - 1)
        self.attention = GlobalAttention(widths[-1], config.heads, cells)
        self.middle = _blocks(widths[-1], config.depth)
        self.upsamplers = nn.ModuleList(Upsampler(wider, width) for width, wider in pairwise(widths))
        self.up = nn.ModuleList(_blocks(width, config.depth) for width in widths[:-1])
        self.conv_out = zero_init(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(self, y: Tensor) -> Tensor:
        """Map (B, 3, S, S) in [0, 1] to the estimate (B, 3, S, S), not clamped.

        Raises:
            ValueError: The side is not `config.image_size_px`.
        """
        side = self.config.image_size_px
        if tuple(y.shape[2:]) != (side, side):
            raise ValueError(f"this network takes {side}x{side} images, not {tuple(y.shape[2:])}")
        y = self.shrinkage(y)
        if self.training or not self.config.mirror_average:
            return self._estimate(y)
        both = self._estimate(torch.cat((y, y.flip(3))))  # (2B, 3, S, S)
        estimate, mirrored = both.unflatten(0, (2, -1)).unbind(0)
        return 0.5 * (estimate + mirrored.flip(3))

    def _estimate(self, y: Tensor) -> Tensor:
        x = F.pixel_unshuffle(y - 0.5, self.config.unshuffle)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))  # (B, C, S/u, S/u)
        skips = []
        for level, blocks in enumerate(self.down):
            x = blocks(x)
            if level < len(self.downsamplers):
                skips.append(x)
                x = self.downsamplers[level](x)  # (B, 2C, H/2, W/2)
        x = self.middle(self.attention(x))
        for level in reversed(range(len(self.upsamplers))):
            x = self.up[level](self.upsamplers[level](x) + skips[level])
        return y + F.pixel_shuffle(self.conv_out(x), self.config.unshuffle)


def _blocks(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
