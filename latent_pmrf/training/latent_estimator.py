"""ELIR's estimator: a regression from the latent of the degraded face to the latent of the clean face.

Cohen et al. (2025) start their flow at the posterior mean of latents, `E[E(X) | Y = y]`; the paper shows why that loses
fidelity against the latent of the posterior mean (appendix A.2). This stage lets the comparison be run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from latent_pmrf.config import SwinIRConfig, UNetConfig
from latent_pmrf.data.validation import ValidationSet
from latent_pmrf.nets.build import build
from latent_pmrf.nets.layers import channels_last
from latent_pmrf.training.estimator import psnr_db
from latent_pmrf.training.latents import FreshPairs, Pair, latents_of


class LatentEstimatorStage:
    """Trains `f` so that `f(E(y))` is the mean of `E(x)`, by MSE.

    Args:
        config: A network of as many image channels as the latent has.
        pairs: Draws (y, x), and encodes both (source `degraded`).
        batch_size: Rows per micro-batch.
        seed: Seed of every batch.
        validation: Held-out faces.
    """

    name = "estimator"

    def __init__(
        self,
        config: SwinIRConfig | UNetConfig,
        pairs: FreshPairs,
        batch_size: int,
        seed: int,
        validation: Sequence[ValidationSet],
    ) -> None:
        self.config = config
        self._pairs = pairs
        self._batch_size = batch_size
        self._seed = seed
        self._validation = validation
        self._latents = [latents_of(level, pairs.networks) for level in validation]
        channels = self._latents[0][0].shape[1]
        if config.image_channels != channels:
            raise ValueError(f"an estimator of latents with {channels} channels needs image_channels: {channels}")

    def build(self) -> nn.Module:
        """The network in channels-last."""
        return channels_last(build(self.config))

    def batch(self, index: int) -> Pair:
        """(y, x) photographs, drawn with replacement."""
        rng = np.random.default_rng((self._seed, index))
        entries = rng.integers(self._pairs.count, size=self._batch_size)
        return self._pairs.draw(entries, index * self._batch_size + np.arange(self._batch_size, dtype=np.int64))

    def loss(
        self,
        model: nn.Module,
        batch: Pair,
        index: int,  # noqa: ARG002 - the loop's signature; nothing here is drawn
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """MSE of the latent."""
        source, target = self._pairs.latents(batch)
        return (model(source).float() - target).square().mean(), {}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Latent MSE, and PSNR of the decoded estimate, per degradation level."""
        scalars: dict[str, float] = {}
        for level, (source, target) in zip(self._validation, self._latents, strict=True):
            estimate = torch.cat([model(part).float() for part in source.split(8)])
            image = torch.cat([self._pairs.networks.decode(part) for part in estimate.split(8)])
            scalars[f"{level.name}_latent_mse"] = float((estimate - target).square().mean())
            scalars[f"{level.name}_psnr_db"] = psnr_db(image.cpu().numpy(), level.clean)
        return scalars

    def info(self) -> dict[str, Any]:
        """That the network estimates latents."""
        return {"space": "latent"}
