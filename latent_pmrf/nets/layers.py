"""Small layers shared by the networks: pixel-wise norms, feed-forward blocks and time features.

Everything takes and returns feature maps `(B, C, H, W)` or vectors `(B, C)`. The networks put their maps in
`torch.channels_last` memory order at the entrance, so that the permutations below cost nothing on a CPU.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def channels_last(module: ModuleT) -> ModuleT:
    """Put the weights of all convolutions in channels-last memory order, in place; oneDNN prefers it."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's annotation lacks it
    return module


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Set weight and bias to zero, in place."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of every pixel of a map (Latent-PMRF, section 3.3; Latent-PMRF@846b904)."""

    def forward(self, input: Tensor) -> Tensor:  # the base class calls it so
        """Normalise every pixel."""
        x = input.permute(0, 2, 3, 1)  # (B, H, W, C)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # (B, C, H, W)


def rms_normalize(x: Tensor, dim: int, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps)` along `dim`, with the sum of squares in float32 or better."""
    accumulate = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=accumulate)
    return x * torch.rsqrt(norm * norm / x.shape[dim] + eps).to(x.dtype)


class FourierFeatures(nn.Module):
    """Features `[cos(2 pi u W^T), sin(2 pi u W^T)]` of a low-dimensional input (Crowson et al., 2024, section 4).

    Args:
        in_features: Width of the input.
        out_features: Number of features, even.
    """

    weight: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(out_features // 2, in_features))

    def forward(self, u: Tensor) -> Tensor:
        """Map `u` (B, in_features) to (B, out_features), always in the precision of the weights."""
        phase = (2 * math.pi) * (u.to(self.weight.dtype)[:, None, :] * self.weight).sum(-1)
        return torch.cat((phase.cos(), phase.sin()), dim=-1)


class ScaledRMSNorm(nn.Module):
    """RMSNorm of the last dimension of a vector, with a weight called `scale`."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (B, C)."""
        return rms_normalize(x, -1, self.eps) * self.scale


class MappingBlock(nn.Module):
    """Residual feed-forward block of the mapping network, gated as `first * gelu(second)`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = ScaledRMSNorm(width)
        self.up_proj = nn.Linear(width, 2 * hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.down_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C) to (B, C)."""
        value, gate = self.up_proj(self.norm(x)).chunk(2, dim=-1)
        return x + self.down_proj(value * F.gelu(gate))


class MappingNetwork(nn.Module):
    """Turns time features into the conditioning vector (Crowson et al., 2024, appendix; PMRF@b6f16a4)."""

    def __init__(self, depth: int, width: int, hidden: int) -> None:
        super().__init__()
        self.in_norm = ScaledRMSNorm(width)
        self.blocks = nn.ModuleList(MappingBlock(width, hidden) for _ in range(depth))
        self.out_norm = ScaledRMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C) to (B, C)."""
        x = self.in_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.out_norm(x)
