"""The trained networks around the flow, frozen: what turns photographs into the two ends of its paths.

    source       z_0                          paper
    posterior_mean  E(f(y))                   Latent-PMRF; in pixel space f(y), which is PMRF
    latent_mean     f(E(y))                   ELIR: f is an estimator of latents (`options: {space: latent}`)
    degraded        E(y)                      a bridge from the degraded photograph, to compare with

Images are in [0, 1] on this side; the autoencoder's own range is [-1, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from latent_pmrf.checkpoints import with_prefix
from latent_pmrf.nets.layers import channels_last
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.training.device import autocast

Source = Literal["posterior_mean", "latent_mean", "degraded"]


class FrozenNetworks:
    """Estimator and autoencoder in evaluation mode, in bf16 where that is fast.

    Args:
        estimator: Of images, or of latents for the source `latent_mean`; None only for `degraded`.
        vae: The autoencoder, or None for a flow in pixel space.
        source: Where the flow starts.
        device: Where the networks run.

    Raises:
        ValueError: The source cannot be made of these networks.
    """

    def __init__(
        self,
        estimator: nn.Module | None,
        vae: SimVAE | None,
        source: Source = "posterior_mean",
        device: str | torch.device = "cpu",
    ) -> None:
        if estimator is None and source != "degraded":
            raise ValueError(f"the source {source} needs an estimator")
        if vae is None and source == "latent_mean":
            raise ValueError("the source latent_mean needs an autoencoder")
        self.device = torch.device(device)
        self.source = source
        self._estimator = None if estimator is None else self._freeze(estimator)
        self._vae = vae
        if vae is not None:
            self._freeze(vae)

    @property
    def in_pixels(self) -> bool:
        """Whether the flow's space is the image itself."""
        return self._vae is None

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in [0, 1] to the mean of the encoder's posterior, float32; in pixel space the image itself."""
        if self._vae is None:
            return image.to(self.device)
        with torch.no_grad(), autocast(self.device):
            return self._vae.encode(image.to(self.device) * 2 - 1)[0].float()

    def decode(self, raw: torch.Tensor) -> torch.Tensor:
        """What `encode` gave back to the image in [0, 1], float32."""
        with torch.no_grad():
            return self.picture(raw).clamp(0, 1)

    def picture(self, raw: torch.Tensor) -> torch.Tensor:
        """What `decode` gives, with gradients and before its bounds."""
        if self._vae is None:
            return raw.to(self.device)
        with autocast(self.device):
            return self._vae.decode(raw.to(self.device)).float() * 0.5 + 0.5

    def pixel_energy(self, raw: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """How much a unit of each channel weighs in the picture: (C,), the squared columns of the decoder's Jacobian.

        Summed over the pixels and averaged over places and rows, by one random combination of the pixels: the square
        of a sum of random signs is in the mean the sum of the squares (Hutchinson's estimator).

        Args:
            raw: (B, C, h, w), as `encode` gives; the more places, the less chance.
            generator: Of the signs.
        """
        if self._vae is None:
            return raw.new_ones(raw.shape[1])
        raw = raw.to(self.device).requires_grad_()
        image = self._vae.decode(raw).float() * 0.5
        signs = torch.randint(0, 2, image.shape, generator=generator).to(image) * 2 - 1
        (gradient,) = torch.autograd.grad((image * signs).sum(), raw)
        return gradient.square().mean((0, 2, 3))

    def source_of(self, y: torch.Tensor) -> torch.Tensor:
        """Degraded (B, 3, S, S) in [0, 1] to z_0 before its noise, (B, C, h, w) float32."""
        if self.source == "latent_mean":
            return self._estimate(self.encode(y))
        return self.encode(self._estimate(y).clamp(0, 1) if self.source == "posterior_mean" else y)

    def digests(self) -> dict[str, str | None]:
        """What identifies the weights."""
        return {"estimator": _digest(self._estimator), "vae": _digest(self._vae)}

    def encoder_digest(self) -> str | None:
        """What identifies the space of the latents, see `encoder_digest`; None in pixel space."""
        return None if self._vae is None else encoder_digest(self._vae.state_dict())

    def _estimate(self, y: torch.Tensor) -> torch.Tensor:
        assert self._estimator is not None  # noqa: S101 - checked in __init__
        with torch.no_grad(), autocast(self.device):
            estimate: torch.Tensor = self._estimator(y.to(self.device)).float()
        return estimate

    def _freeze(self, network: nn.Module) -> nn.Module:
        return channels_last(network.eval().requires_grad_(False).to(self.device))


def encoder_digest(vae: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the encoder in an autoencoder's state dict, in half precision, which is as a bundle may store it."""
    return _sha256({name: value.half() for name, value in with_prefix(vae, "encoder.").items()})


def _digest(network: nn.Module | None) -> str | None:
    return None if network is None else _sha256(network.state_dict())


def _sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest()
