"""SwinIR posterior-mean estimator: degraded image in, estimate of E[clean | degraded] out.

Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (2021), sections 3.1-3.2, in the variant of DifFace
(DifFace@5c9ab80) that PMRF uses (PMRF@b6f16a4): the image is unshuffled before the first convolution, so that the
transformer works on one token per 8x8 pixels. Parameter names are those of the public checkpoint; its buffers
(`relative_position_index`, `attn_mask`) are functions of the sizes and are not part of the state dict.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_pmrf.config import SwinIRConfig
from latent_pmrf.nets.layers import zero_init

DATASET_MEAN = (0.4488, 0.4371, 0.4040)
MASKED = -100.0


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def relative_position_index(window: int) -> Tensor:
    """Row of the position-bias table for each query/key pair of one window, int64 (window^2, window^2)."""
    position = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    offset = position[:, :, None] - position[:, None, :] + window - 1
    return torch.from_numpy(offset[0] * (2 * window - 1) + offset[1])


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Additive mask between tokens that only the cyclic shift made neighbours (Liu et al., 2021, section 3.2).

    Built with numpy: the cached tensor is then a real one even when the first call comes from `torch.export`.

    Returns:
        float32 (windows, window^2, window^2), windows in row-major order; 0 where allowed, else `MASKED`.
    """

    def band(length: int) -> np.ndarray:
        index = np.arange(length)
        return (index >= length - window).astype(np.int64) + (index >= length - shift)

    region = 3 * band(height)[:, None] + band(width)[None, :]
    region = region.reshape(height // window, window, width // window, window).transpose(0, 2, 1, 3)
    region = region.reshape(-1, window * window)
    return torch.from_numpy(np.where(region[:, :, None] == region[:, None, :], 0.0, MASKED).astype(np.float32))


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learnt bias per relative position (SwinIR, section 3.2)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def position_bias(self) -> Tensor:
        """Bias of every query/key pair, (heads, N, N)."""
        index = relative_position_index(self.window).to(self.relative_position_bias_table.device)
        bias = self.relative_position_bias_table[index.flatten()].view(*index.shape, self.heads)
        return bias.permute(2, 0, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            x: Tokens (B, H, W, C), already shifted.
            mask: (windows, N, N) or None.
        """
        b, h, w, c = x.shape
        side, heads = self.window, self.heads
        rows, cols, n, d = h // side, w // side, side * side, c // heads

        def split(y: Tensor) -> Tensor:
            y = y.reshape(b, rows, side, cols, side, heads, d).permute(0, 1, 3, 5, 2, 4, 6)
            return y.reshape(b, rows * cols * heads, n, d)  # (B, windows * heads, N, d)

        q, k, v = (split(y) for y in self.qkv(x).chunk(3, dim=-1))
        bias = self.position_bias()  # (heads, N, N)
        bias = bias.expand(rows * cols, -1, -1, -1) if mask is None else bias + mask[:, None].to(bias.dtype)
        bias = bias.reshape(1, rows * cols * heads, n, n)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        y = y.reshape(b, rows, cols, heads, side, side, d).permute(0, 1, 4, 2, 5, 3, 6)
        return self.proj(y.reshape(b, h, w, c))  # (B, H, W, C)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and feed-forward, each with a residual connection (SwinIR, section 3.2)."""

    def __init__(self, width: int, heads: int, window: int, mlp_ratio: float, shifted: bool) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        y = self.norm1(x)
        if self.shift:
            mask = shift_mask(x.shape[1], x.shape[2], self.window, self.shift).to(x.device)
            y = torch.roll(y, (-self.shift, -self.shift), dims=(1, 2))
            y = torch.roll(self.attn(y, mask), (self.shift, self.shift), dims=(1, 2))
        else:
            y = self.attn(y, None)
        x = x + y
        return x + self.mlp(self.norm2(x))


class ResidualGroup(nn.Module):
    """Residual Swin transformer block: blocks, one convolution, a skip (SwinIR, section 3.2)."""

    def __init__(self, width: int, depth: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        blocks = nn.ModuleList(SwinBlock(width, heads, window, mlp_ratio, bool(j % 2)) for j in range(depth))
        self.residual_group = nn.ModuleDict({"blocks": blocks})
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        y = x
        for block in self.residual_group["blocks"].children():
            y = block(y)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(nn.Module):
    """Posterior-mean estimator.

    Args:
        config: Sizes of the network.
    """

    mean: Tensor

    def __init__(self, config: SwinIRConfig) -> None:
        super().__init__()
        self.config = config
        channels, width, side = config.image_channels, config.embed_dim, config.unshuffle
        mean = DATASET_MEAN if channels == len(DATASET_MEAN) else (0.0,) * channels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Sequential(nn.PixelUnshuffle(side), nn.Conv2d(channels * side * side, width, 3, padding=1))
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(width)})
        self.layers = nn.ModuleList(
            ResidualGroup(width, depth, heads, config.window_size, config.mlp_ratio)
            for depth, heads in zip(config.depths, config.num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        if config.upsampler == "nearest+conv":
            head = config.upsample_width
            self.doublings = round(math.log2(side))
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(width, head, 3, padding=1), nn.LeakyReLU())
            for i in range(self.doublings):
                self.add_module(f"conv_up{i + 1}", nn.Conv2d(head, head, 3, padding=1))
            self.conv_hr = nn.Conv2d(head, head, 3, padding=1)
            last = self.conv_last = nn.Conv2d(head, channels, 3, padding=1)
        else:
            last = nn.Conv2d(width, channels * side * side, 3, padding=1)
            self.upsample = nn.Sequential(last, nn.PixelShuffle(side))
        self.apply(_init_linear)
        if config.image_skip:
            zero_init(last)

    def forward(self, y: Tensor) -> Tensor:
        """Estimate the posterior mean.

        Args:
            y: Degraded image (B, 3, H, W) in [0, 1]; sides are multiples of `unshuffle * window_size`.

        Returns:
            Estimate (B, 3, H, W), not clamped.

        Raises:
            ValueError: A side is not such a multiple.
        """
        multiple = self.config.unshuffle * self.config.window_size
        if y.shape[2] % multiple or y.shape[3] % multiple:
            raise ValueError(f"sides {tuple(y.shape[2:])} must be multiples of {multiple} pixels")
        x = y - self.mean
        first = self.conv_first(x).contiguous(memory_format=torch.channels_last)  # (B, C, H/8, W/8)
        tokens = self.patch_embed["norm"](first.permute(0, 2, 3, 1))  # (B, H/8, W/8, C)
        for layer in self.layers:
            tokens = layer(tokens)
        body = self.conv_after_body(self.norm(tokens).permute(0, 3, 1, 2)) + first  # (B, C, H/8, W/8)
        image = self._upsample(body) + self.mean  # (B, 3, H, W)
        return image + x if self.config.image_skip else image

    def _upsample(self, x: Tensor) -> Tensor:
        """Features (B, C, H/8, W/8) to an image (B, 3, H, W)."""
        if self.config.upsampler == "pixelshuffledirect":
            return self.upsample(x)
        x = self.conv_before_upsample(x)
        for i in range(self.doublings):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.leaky_relu(self.get_submodule(f"conv_up{i + 1}")(x), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
