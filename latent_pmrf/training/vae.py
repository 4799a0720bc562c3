"""Stage 2: Sim-VAE, L1 with a very small KL term and, where wanted, the perceptual loss (paper, appendix B.2).

The loss of high frequencies beside it (`band_weight`) is ours, for where no weights of VGG19 are.

With `decoder_only` the encoder stays as it is given, so that a flow trained in its latents stays valid: a finish of the
decoder, as the public autoencoders of Stable Diffusion had one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from latent_pmrf.config import SimVAEConfig
from latent_pmrf.data.datasets import Augmentation, augment
from latent_pmrf.data.degradation import resize
from latent_pmrf.data.photographs import U8Image
from latent_pmrf.data.validation import ValidationSet, to_tensor
from latent_pmrf.nets.layers import channels_last
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.training.device import device_of
from latent_pmrf.training.draws import draw_seed
from latent_pmrf.training.estimator import psnr_db
from latent_pmrf.training.losses import band_amplitude_l1, band_energy, kl_divergence, laplacian_pyramid_l1
from latent_pmrf.training.perceptual import PerceptualLoss

# The noise of a training step stays below an eighth of a normalised latent's spread: one step that lets the variance
# escape destroys the decoder. Only a linear skip starts below the bound; above it the variance would not be trained.
_MAX_LOGVAR = -4.0


class VAEStage:
    """Trains Sim-VAE on crops of clean faces; images in [-1, 1]."""

    name = "vae"

    def __init__(  # noqa: PLR0913 - the facts of a stage
        self,
        config: SimVAEConfig,
        images: Sequence[U8Image],
        *,
        size_px: int,
        crop_px: int,
        batch_size: int,
        seed: int,
        validation: Sequence[ValidationSet],
        augmentation: Augmentation,
        kl_weight: float = 1e-6,
        band_weight: float = 1.0,
        amplitude_weight: float = 0.0,
        decoder_only: bool = False,
        perceptual_weight: float = 0.0,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        if perceptual_weight > 0 and perceptual is None:
            raise ValueError("perceptual_weight needs a perceptual loss")
        if crop_px % config.downscale:
            raise ValueError(f"crop_px {crop_px} must be a multiple of the autoencoder's {config.downscale}")
        self.config = config
        self._images = images
        self._size_px = size_px
        self._crop_px = crop_px
        self._batch_size = batch_size
        self._seed = seed
        self._clean = validation[0].clean
        self._augmentation = augmentation
        self._kl_weight = kl_weight
        self._band_weight = band_weight
        self._amplitude_weight = amplitude_weight
        self._decoder_only = decoder_only
        self._perceptual_weight = perceptual_weight
        self._perceptual = perceptual

    def build(self) -> nn.Module:
        """Sim-VAE; with a linear skip it starts as the PCA of the training patches, which stays fixed."""
        vae = SimVAE(self.config)
        if self.config.linear_skip:
            vae.init_linear_skip_(*patch_pca(self._crops(64, 0), self.config.downscale, self.config.latent_channels))
            for name, parameter in vae.named_parameters():
                parameter.requires_grad_(".skip." not in name)
        if self._decoder_only:
            vae.encoder.requires_grad_(False)
        return channels_last(vae)

    def batch(self, index: int) -> torch.Tensor:
        """(B, 3, crop, crop) in [-1, 1]."""
        return self._crops(self._batch_size, index + 1) * 2 - 1

    def loss(self, model: nn.Module, batch: torch.Tensor, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """L1 + band L1 + KL, and the other terms that have a weight; the latent is sampled."""
        assert isinstance(model, SimVAE)  # noqa: S101 - narrows the type
        mean, logvar = model.encode(batch)
        if self.config.linear_skip:
            logvar = logvar.clamp(max=_MAX_LOGVAR)
        generator = torch.Generator().manual_seed(draw_seed(self._seed, index))
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        image = model.decode(mean + (0.5 * logvar).exp() * noise).float()
        l1 = (image - batch).abs().mean()
        band = laplacian_pyramid_l1(image, batch)
        kl = kl_divergence(mean, logvar)
        loss = l1 + self._band_weight * band + self._kl_weight * kl
        scalars = {"l1": l1.detach(), "band": band.detach(), "kl": kl.detach()}
        if self._amplitude_weight > 0:
            amplitude = band_amplitude_l1(image, batch)
            loss = loss + self._amplitude_weight * amplitude
            scalars["amplitude"] = amplitude.detach()
        if self._perceptual is not None:
            perceptual = self._perceptual.to(batch.device)(image, batch)
            loss = loss + self._perceptual_weight * perceptual
            scalars["perceptual"] = perceptual.detach()
        return loss, scalars

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR and share of the Laplacian variance kept, on whole clean faces, from the latent's mean."""
        assert isinstance(model, SimVAE)  # noqa: S101 - narrows the type
        images = []
        for start in range(0, len(self._clean), 4):
            batch = torch.from_numpy(self._clean[start : start + 4]).contiguous(memory_format=torch.channels_last)
            decoded = model.decode(model.encode(batch.to(device_of(model)) * 2 - 1)[0]).float()
            images.append((decoded * 0.5 + 0.5).clamp(0, 1).cpu())
        image = torch.cat(images)
        kept = band_energy(image) / band_energy(torch.from_numpy(self._clean))
        return {"psnr_db": psnr_db(image.numpy(), self._clean), "laplacian_ratio": float(kept.mean())}

    def info(self) -> dict[str, Any]:
        """Weights of the loss terms, and whether the encoder was given."""
        weights = {
            "kl_weight": self._kl_weight,
            "band_weight": self._band_weight,
            "amplitude_weight": self._amplitude_weight,
            "decoder_only": self._decoder_only,
        }
        return weights if self._perceptual is None else {**weights, "perceptual_weight": self._perceptual_weight}

    def _crops(self, count: int, step: int) -> torch.Tensor:
        rng = np.random.default_rng((self._seed, step))
        crops = []
        for index in rng.integers(len(self._images), size=count):
            image = augment(resize(self._images[int(index)], self._size_px), self._augmentation, rng)
            top, left = rng.integers(0, self._size_px - self._crop_px + 1, size=2)
            crops.append(image[top : top + self._crop_px, left : left + self._crop_px])
        return to_tensor(np.stack(crops))


def patch_pca(images: torch.Tensor, patch_px: int, components: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Principal components of the square patches of (N, 3, H, W) images in [0, 1], on the [-1, 1] scale.

    Returns:
        mean (D,), components (K, D) orthonormal rows, std (K,) of the coefficients; D = 3 * patch_px**2 in (c, dy, dx)
        order.
    """
    patches = nn.functional.unfold(images.contiguous() * 2 - 1, patch_px, stride=patch_px).transpose(1, 2).flatten(0, 1)
    data: npt.NDArray[np.float64] = patches.double().numpy()
    mean = data.mean(axis=0)
    variance, vectors = np.linalg.eigh(np.cov(data.T))
    order = np.argsort(variance)[::-1][:components]
    return _float_tensor(mean), _float_tensor(vectors[:, order].T), _float_tensor(np.sqrt(variance[order]))


def _float_tensor(array: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()
