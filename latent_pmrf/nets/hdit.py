"""Hourglass diffusion transformer: state `x_t` and time in, velocity out.

Crowson et al., "Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass Diffusion Transformers" (2024),
in the two published variants: PMRF's on pixels (PMRF@b6f16a4, from k-diffusion) and Latent-PMRF's on latents
(Latent-PMRF@846b904, `LooUFormer`). Module names follow the second; `latent_pmrf.checkpoints` maps the first to them.
Linear layers over channels are 1x1 convolutions here in both variants.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_pmrf.config import HDiTConfig
from latent_pmrf.nets.attention import MASKED, attend, neighborhood_attention, rotate
from latent_pmrf.nets.layers import FourierFeatures, MappingNetwork, rms_normalize, zero_init
from latent_pmrf.nets.preconditioning import Preconditioning

AUGMENTATION_WIDTH = 9
"""Width of PMRF's augmentation condition, always zero."""

INITIAL_COSINE_SCALE = 10.0
NORM_EPS = 1e-6
NEGLIGIBLE = 30.0
"""A logit that is this much less than another weighs nothing beside it: exp(-30) is below 1e-13."""


def hidden_width(config: HDiTConfig, width: int) -> int:
    """Hidden width of a feed-forward block; Latent-PMRF's code rounds it to a multiple of 64."""
    hidden = int(width * config.ff_mult)
    return hidden if config.flavour == "pmrf" else (hidden + 31) // 64 * 64


def patchify(x: Tensor, side: int) -> Tensor:
    """Pack `side x side` pixels into channels ordered (dy, dx, c): (B, C, H, W) to (B, side^2 C, H/side, W/side)."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // side, side, w // side, side).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, side * side * c, h // side, w // side)


def unpatchify(x: Tensor, side: int) -> Tensor:
    """Inverse of `patchify`."""
    b, c, h, w = x.shape
    x = x.reshape(b, side, side, c // (side * side), h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // (side * side), h * side, w * side)


class AdaRMSNorm(nn.Module):
    """RMSNorm over channels, times one plus a linear function of the condition."""

    def __init__(self, width: int, condition: int, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, width, bias=bias)
        nn.init.zeros_(self.linear.weight)
        if bias:
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Map (B, C, H, W) and the condition (B, D) to (B, C, H, W)."""
        gain = (1 + self.linear(cond)).to(x.dtype)[:, :, None, None]
        return rms_normalize(x, 1, NORM_EPS) * gain


class OutNorm(nn.Module):
    """RMSNorm over channels with a weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return rms_normalize(x, 1, self.eps) * self.weight.to(x.dtype)[:, None, None]


class Projection(nn.Module):
    """1x1 convolution without bias, then optionally a depth-wise 3x3 convolution."""

    def __init__(self, width: int, out_width: int, depthwise: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out_width, 1, bias=False)
        self.dwconv = nn.Conv2d(out_width, out_width, 3, padding=1, groups=out_width) if depthwise else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        x = self.conv(x)
        return x if self.dwconv is None else self.dwconv(x)


class Attention(nn.Module):
    """Rotary self-attention over the whole map or a neighbourhood.

    With cosine attention, queries and keys have unit length times the root of a learnt scale per head (PMRF).
    """

    def __init__(self, config: HDiTConfig, level: int) -> None:
        super().__init__()
        width, self.head_dim = config.widths[level], config.head_dim[level]
        self.heads = width // self.head_dim
        self.kernel = config.kernel_size if config.attention[level] == "neighborhood" else None
        cosine = config.flavour == "pmrf" or config.cosine_attention
        self.mask_depth = MASKED
        self.qkv_proj = Projection(width, 3 * width, config.depthwise_conv)
        self.scale = nn.Parameter(torch.full((self.heads,), INITIAL_COSINE_SCALE)) if cosine else None
        self.out_proj = zero_init(nn.Conv2d(width, width, 1, bias=config.flavour == "latent_pmrf"))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        b, c, h, w = x.shape
        qkv = self.qkv_proj(x).permute(0, 2, 3, 1).reshape(b, h, w, 3, self.heads, self.head_dim)
        qk, v = qkv.permute(3, 0, 4, 1, 2, 5).split((2, 1))  # (2 | 1, B, heads, H, W, d)
        logit_scale = None
        if self.scale is not None:
            squared = torch.linalg.vector_norm(qk, dim=-1, keepdim=True, dtype=torch.float32).square()
            length = self.scale[:, None, None, None].sqrt() * torch.rsqrt(squared + NORM_EPS)
            qk, logit_scale = qk * length.to(qk.dtype), 1.0
        q, k = rotate(qk).unbind(0)
        v = v.squeeze(0)
        if self.kernel is None:
            q, k, v = (y.reshape(b, self.heads, h * w, self.head_dim) for y in (q, k, v))
            y = attend(q, k, v, scale=logit_scale)
            y = y.reshape(b, self.heads, h, w, self.head_dim)
        else:
            y = neighborhood_attention(q, k, v, self.kernel, logit_scale, self.mask_depth)
        y = y.permute(0, 2, 3, 1, 4).reshape(b, h, w, c)
        return self.out_proj(y.permute(0, 3, 1, 2))


class FeedForward(nn.Module):
    """Gated feed-forward; the published variants disagree on which half passes through the GELU."""

    def __init__(self, config: HDiTConfig, width: int) -> None:
        super().__init__()
        hidden = hidden_width(config, width)
        self.gelu_first = config.flavour == "latent_pmrf"
        self.project_in = Projection(width, 2 * hidden, config.depthwise_conv)
        self.down_proj = zero_init(nn.Conv2d(hidden, width, 1, bias=config.flavour == "latent_pmrf"))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        first, second = self.project_in(x).chunk(2, dim=1)
        return self.down_proj(F.gelu(first) * second if self.gelu_first else first * F.gelu(second))


class Block(nn.Module):
    """Attention, then feed-forward, each conditioned and with a residual connection."""

    def __init__(self, config: HDiTConfig, level: int) -> None:
        super().__init__()
        width, bias = config.widths[level], config.flavour == "latent_pmrf"
        self.norm1 = AdaRMSNorm(width, config.mapping_width, bias)
        self.attn = Attention(config, level)
        self.norm2 = AdaRMSNorm(width, config.mapping_width, bias)
        self.ff = FeedForward(config, width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Map (B, C, H, W) and the condition (B, D) to (B, C, H, W)."""
        x = x + self.attn(self.norm1(x, cond))
        return x + self.ff(self.norm2(x, cond))


class Downsample(nn.Module):
    """To half the resolution: a strided convolution (Latent-PMRF) or a linear layer on 2x2 merged tokens (PMRF)."""

    def __init__(self, flavour: str, width: int, out_width: int) -> None:
        super().__init__()
        self.merge = flavour == "pmrf"
        if self.merge:
            self.conv = nn.Conv2d(4 * width, out_width, 1, bias=False)
        else:
            self.conv = nn.Conv2d(width, out_width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/2, W/2)."""
        return self.conv(patchify(x, 2) if self.merge else x)


class Upsample(nn.Module):
    """To twice the resolution, blended with the skip by a learnt factor."""

    def __init__(self, flavour: str, width: int, out_width: int) -> None:
        super().__init__()
        self.split = flavour == "pmrf"
        self.fac = nn.Parameter(torch.full((1,), 0.5))
        if self.split:
            self.conv = nn.Conv2d(width, 4 * out_width, 1, bias=False)
        else:
            self.conv = nn.Conv2d(width, out_width, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, C, H, W) and the skip (B, C', 2H, 2W) to (B, C', 2H, 2W)."""
        x = unpatchify(self.conv(x), 2) if self.split else self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return skip + self.fac.to(x.dtype) * (x - skip)


class Patch(nn.Module):
    """Holds the convolution of the entrance or exit, under the public name `proj`."""

    def __init__(self, flavour: str, width: int, out_width: int) -> None:
        super().__init__()
        if flavour == "pmrf":
            self.proj = nn.Conv2d(width, out_width, 1, bias=False)
        else:
            self.proj = nn.Conv2d(width, out_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return self.proj(x)


class HDiT(nn.Module):
    """Velocity network of the flow from the posterior mean (t = 0) to the data (t = 1).

    Args:
        config: Sizes of the network.

    Raises:
        ValueError: The combination of options exists in neither published variant.
    """

    def __init__(self, config: HDiTConfig) -> None:
        super().__init__()
        if config.flavour == "pmrf" and config.depthwise_conv:
            raise ValueError("flavour 'pmrf' has no depth-wise convolutions: set depthwise_conv=False")
        if config.mean_conditioned and config.time_convention != "t":
            raise ValueError("mean_conditioned needs time_convention='t'")
        self.config = config
        widths, flavour, condition = config.widths, config.flavour, config.mapping_width
        pixels = config.in_channels * config.patch_size**2
        self.preconditioning = Preconditioning(config.in_channels) if config.mean_conditioned else None
        outer = range(len(widths) - 1)
        self.time_proj = FourierFeatures(1, condition)
        self.timestep_embedder = nn.Linear(condition, condition, bias=False)
        if flavour == "pmrf":
            self.aug_emb = FourierFeatures(AUGMENTATION_WIDTH, condition)
            self.aug_in_proj = nn.Linear(condition, condition, bias=False)
        self.mapping = MappingNetwork(config.mapping_depth, condition, hidden_width(config, condition))
        self.proj_in = Patch(flavour, 2 * pixels if config.mean_conditioned else pixels, widths[0])
        self.down_blocks = nn.ModuleList(_level(config, i) for i in outer)
        self.downs = nn.ModuleList(Downsample(flavour, width, deeper) for width, deeper in pairwise(widths))
        self.mid_block = _level(config, len(widths) - 1)
        self.ups = nn.ModuleList(Upsample(flavour, deeper, width) for width, deeper in pairwise(widths))
        self.up_blocks = nn.ModuleList(_level(config, i) for i in outer)
        self.out_norm = OutNorm(widths[0], NORM_EPS if flavour == "pmrf" else torch.finfo(torch.float32).eps)
        self.proj_out = Patch(flavour, widths[0], pixels)
        zero_init(self.proj_out.proj)

    def fit_masks_(self) -> None:
        """Make the masks of cosine attention as deep as they need to be for these weights, all alike.

        Logits of unit queries and keys lie within their scale, so a finite depth suffices for weights below the
        rounding of float32. Under a deeper mask exponentials become subnormal numbers, with which Intel processors take
        thirteen times as long over onnxruntime's softmax (docs/profiles/networks.md); where a scale is above 14, some
        do in any case. Weights that change afterwards want it again.
        """
        bounded = {
            module: float(module.scale.max())
            for module in self.modules()
            if isinstance(module, Attention) and module.scale is not None and module.kernel is not None
        }
        depth = -2.0 * max(bounded.values(), default=0.0) - NEGLIGIBLE
        for module in bounded:
            module.mask_depth = depth

    def forward(self, x_t: Tensor, t: Tensor, source_mean: Tensor | None = None) -> Tensor:
        """Velocity at a state.

        Args:
            x_t: State (B, C, H, W); sides are multiples of `patch_size * 2^(levels - 1)`, and no neighbourhood level is
                smaller than its window.
            t: Time (B,) in [0, 1]; 0 is the source, 1 the data.
            source_mean: The source without its noise, (B, C, H, W); exactly for a `mean_conditioned` network.

        Returns:
            Velocity data - source, (B, C, H, W).

        Raises:
            ValueError: A side is not such a multiple, or too small; `source_mean` is missing or not expected.
        """
        multiple = self.config.patch_size * 2 ** len(self.downs)
        if x_t.shape[2] % multiple or x_t.shape[3] % multiple:
            raise ValueError(f"sides {tuple(x_t.shape[2:])} must be multiples of {multiple}")
        if (source_mean is None) != (self.preconditioning is None):
            raise ValueError("source_mean goes with mean_conditioned networks, and only with them")
        if self.preconditioning is None or source_mean is None:
            reverse = self.config.time_convention == "sigma"
            velocity = self._transform(x_t, 1 - t if reverse else t)
            return -velocity if reverse else velocity
        offset, known = x_t - source_mean, self.preconditioning(t)
        rest = self._transform(torch.cat([known.c_in * offset, source_mean], dim=1), t)
        return known.c_skip * offset + known.c_out * rest.to(offset.dtype)

    def _transform(self, x: Tensor, time: Tensor) -> Tensor:
        """The transformer alone: (B, C or 2C, H, W) and raw times (B,) to (B, C, H, W)."""
        cond = self.condition(time)  # (B, D)
        x = patchify(x, self.config.patch_size) if self.config.patch_size > 1 else x
        x = self.proj_in(x.contiguous(memory_format=torch.channels_last))  # (B, C_0, H/p, W/p)
        skips = []
        for blocks, down in zip(self.down_blocks, self.downs, strict=True):
            x = _run(blocks, x, cond)
            skips.append(x)
            x = down(x)  # (B, C_{i+1}, H/2, W/2)
        x = _run(self.mid_block, x, cond)
        for i in reversed(range(len(skips))):
            x = _run(self.up_blocks[i], self.ups[i](x, skips[i]), cond)  # (B, C_i, 2H, 2W)
        x = self.proj_out(self.out_norm(x))
        return unpatchify(x, self.config.patch_size) if self.config.patch_size > 1 else x

    def condition(self, time: Tensor) -> Tensor:
        """Conditioning vector (B, D) of the raw time input (B,)."""
        embedding = self.timestep_embedder(self.time_proj(time[:, None]))
        if self.config.flavour == "pmrf":
            embedding = embedding + self.aug_in_proj(self.aug_emb(time.new_zeros(1, AUGMENTATION_WIDTH)))
        return self.mapping(embedding)


def _level(config: HDiTConfig, level: int) -> nn.ModuleList:
    return nn.ModuleList(Block(config, level) for _ in range(config.depths[level]))


def _run(blocks: nn.Module, x: Tensor, cond: Tensor) -> Tensor:
    for block in blocks.children():
        x = block(x, cond)
    return x
