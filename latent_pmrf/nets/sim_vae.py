"""Sim-VAE: image in [-1, 1] to latent moments and back.

Latent-PMRF, section 3.3 (Latent-PMRF@846b904, `AutoencoderKLSim`): a convolutional autoencoder whose residual blocks
hold one pixel-wise LayerNorm and no attention, and whose width changes only in separate resizing layers. Parameter
names are those of the public checkpoint. `stem_unshuffle` and `linear_skip` are additions of this project for CPUs; the
variants of table 2 are in `vae_blocks`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_pmrf.config import SimVAEConfig
from latent_pmrf.nets.layers import zero_init
from latent_pmrf.nets.vae_blocks import Downsampler, Upsampler, make_levels, make_middle, make_norm

LOGVAR_RANGE = (-30.0, 20.0)
INITIAL_LOGVAR = -9.0


class Encoder(nn.Module):
    """Image to the moments of the latent."""

    def __init__(self, config: SimVAEConfig) -> None:
        super().__init__()
        widths, stem = config.block_out_channels, config.stem_unshuffle
        self.stem_unshuffle = stem
        self.conv_in = nn.Conv2d(config.image_channels * stem * stem, widths[0], 3, padding=1)
        self.down_blocks = make_levels(config, widths, config.layers_per_block, Downsampler)
        self.mid_block = make_middle(config)
        self.norm_out = make_norm(widths[-1], config.norm) if config.two_norms else None
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)
        self.skip: nn.Conv2d | None = None
        if config.linear_skip:
            side = config.downscale
            self.skip = nn.Conv2d(config.image_channels, config.latent_channels, side, stride=side)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [-1, 1] to mean and log-variance, stacked: (B, 2 * latent, H/8, W/8)."""
        x = F.pixel_unshuffle(image, self.stem_unshuffle) if self.stem_unshuffle > 1 else image
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))  # (B, C, H/s, W/s)
        for level in self.down_blocks:
            x = level(x)
        x = self.mid_block(x)
        if self.norm_out is not None:
            x = F.silu(self.norm_out(x))
        moments = self.conv_out(x)  # (B, 2 * latent, H/8, W/8)
        if self.skip is None:
            return moments
        mean, logvar = moments.chunk(2, dim=1)
        return torch.cat((mean + self.skip(image), logvar), dim=1)


class Decoder(nn.Module):
    """Latent to image."""

    def __init__(self, config: SimVAEConfig) -> None:
        super().__init__()
        widths, stem = config.block_out_channels[::-1], config.stem_unshuffle
        self.stem_unshuffle = stem
        self.downscale = config.downscale
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = make_middle(config)
        self.up_blocks = make_levels(config, widths, config.decoder_layers_per_block, Upsampler)
        self.norm_out = make_norm(widths[-1], config.norm) if config.two_norms else None
        self.conv_out = nn.Conv2d(widths[-1], config.image_channels * stem * stem, 3, padding=1)
        self.skip: nn.Conv2d | None = None
        if config.linear_skip:
            self.skip = nn.Conv2d(config.latent_channels, config.image_channels * self.downscale**2, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, latent, H/8, W/8) to an image (B, 3, H, W) in about [-1, 1], not clamped."""
        x = self.conv_in(z.contiguous(memory_format=torch.channels_last))  # (B, C, H/8, W/8)
        x = self.mid_block(x)
        for level in self.up_blocks:
            x = level(x)
        if self.norm_out is not None:
            x = F.silu(self.norm_out(x))
        image = self.conv_out(x)  # (B, 3 * s * s, H/s, W/s)
        if self.stem_unshuffle > 1:
            image = F.pixel_shuffle(image, self.stem_unshuffle)
        if self.skip is None:
            return image
        return image + F.pixel_shuffle(self.skip(z), self.downscale)  # (B, 3, H, W)


class SimVAE(nn.Module):
    """Variational autoencoder of Latent-PMRF.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: SimVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, image_pm1: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of the posterior.

        Args:
            image_pm1: (B, 3, H, W) in [-1, 1]; sides are multiples of `config.downscale`.

        Returns:
            Mean and log-variance, each (B, latent, H/8, W/8); the log-variance is clamped to [-30, 20].

        Raises:
            ValueError: A side is not such a multiple.
        """
        if image_pm1.shape[2] % self.config.downscale or image_pm1.shape[3] % self.config.downscale:
            raise ValueError(f"sides {tuple(image_pm1.shape[2:])} must be multiples of {self.config.downscale} pixels")
        mean, logvar = self.encoder(image_pm1).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """Image (B, 3, H, W) in about [-1, 1], not clamped, of a latent (B, latent, H/8, W/8)."""
        return self.decoder(z)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile both halves in place: they are what is called, the module itself never is."""
        self.encoder.compile(*args, **kwargs)
        self.decoder.compile(*args, **kwargs)

    @torch.no_grad()
    def init_linear_skip_(self, mean: Tensor, components: Tensor, std: Tensor) -> None:
        """Make the network start as a principal component analysis of patches.

        The latent is `components (patch - mean) / std` and the decoder its inverse; the last convolution of encoder
        and decoder is set to zero and the log-variance starts at `INITIAL_LOGVAR`.

        Args:
            mean: Mean patch (D,), D = 3 * downscale^2 ordered (c, dy, dx), pixels in [-1, 1].
            components: Orthonormal rows (latent, D).
            std: Standard deviation of each component (latent,).

        Raises:
            ValueError: The network has no linear skip, or a shape is wrong.
        """
        encode, decode = self.encoder.skip, self.decoder.skip
        if encode is None or decode is None:
            raise ValueError("the network has no linear skip (config.linear_skip)")
        latent, patch = encode.out_channels, math.prod(encode.weight.shape[1:])
        if (mean.shape, components.shape, std.shape) != ((patch,), (latent, patch), (latent,)):
            raise ValueError(f"expected mean ({patch},), components ({latent}, {patch}) and std ({latent},)")
        whiten = components / std[:, None]
        colour = (components * std[:, None]).T
        encode.load_state_dict({"weight": whiten.reshape(encode.weight.shape), "bias": -(whiten @ mean)})
        decode.load_state_dict({"weight": colour.reshape(decode.weight.shape), "bias": mean})
        zero_init(self.decoder.conv_out)
        zero_init(self.encoder.conv_out).get_parameter("bias")[latent:] = INITIAL_LOGVAR
