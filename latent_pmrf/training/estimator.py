"""Stage 1: the posterior-mean estimator, a regression from degraded to clean faces (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from latent_pmrf.config import SwinIRConfig, UNetConfig
from latent_pmrf.data.datasets import FacePairs
from latent_pmrf.data.validation import ValidationSet, to_planes
from latent_pmrf.nets.build import build
from latent_pmrf.nets.layers import channels_last
from latent_pmrf.training.device import device_of
from latent_pmrf.training.draws import draw_seed
from latent_pmrf.training.identity import IdentityLoss
from latent_pmrf.training.losses import REGRESSION_LOSSES, shared_error

Pair = tuple[torch.Tensor, torch.Tensor]


class EstimatorStage:
    """Trains the estimator to map `y` to `E[X | Y = y]`; images in [0, 1]."""

    name = "estimator"

    def __init__(  # noqa: PLR0913 - the facts of a stage
        self,
        config: SwinIRConfig | UNetConfig,
        pairs: FacePairs,
        batch_size: int,
        seed: int,
        validation: Sequence[ValidationSet],
        loss: str = "relative_mse",
        identity_weight: float = 0.0,
        identity: IdentityLoss | None = None,
        shared_error_weight: float = 0.0,
    ) -> None:
        if loss not in REGRESSION_LOSSES:
            raise ValueError(f"the option loss must be one of {sorted(REGRESSION_LOSSES)}, not {loss!r}")
        if identity_weight > 0 and identity is None:
            raise ValueError("identity_weight needs an identity loss")
        self.config = config
        self._loss = REGRESSION_LOSSES[loss]
        self._pairs = pairs
        self._batch_size = batch_size
        self._seed = seed
        self._validation = validation
        self._identity_weight = identity_weight
        self._identity = identity
        self._shared_error_weight = shared_error_weight

    def build(self) -> nn.Module:
        """The network in channels-last, which oneDNN prefers for its convolutions."""
        return channels_last(build(self.config))

    def batch(self, index: int) -> Pair:
        """(y, x), each (B, 3, S, S) uint8."""
        lq, hq = self._pairs.batch(self._batch_size, np.random.default_rng((self._seed, index)))
        return to_planes(lq), to_planes(hq)

    def loss(self, model: nn.Module, batch: Pair, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The chosen regression loss, with the identity loss if there is one, and the mean gain over the input."""
        y, x = batch
        estimate = model(y)
        error, reference = ((image.detach().float() - x).square().mean((1, 2, 3)) for image in (estimate, y))
        loss = self._loss(estimate, x, y)
        scalars = {"gain_db": 10 * torch.log10(reference / error).mean()}
        if self._shared_error_weight > 0:
            shared = shared_error(estimate, x, y)
            loss = loss + self._shared_error_weight * shared
            scalars["shared_error"] = shared.detach()
        if self._identity is not None:
            identity = self._identity.to(x.device)(estimate, x, draw_seed(self._seed, index))
            loss = loss + self._identity_weight * identity
            scalars["identity"] = identity.detach()
        return loss, scalars

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR and its gain over the input, per degradation level; with an identity loss, the distances too."""
        scalars: dict[str, float] = {}
        device = device_of(model)
        for level in self._validation:
            x_star = level.map(lambda y: model(y.to(device)).float().clamp(0, 1))
            scalars[f"{level.name}_psnr_db"] = psnr_db(x_star, level.clean)
            scalars[f"{level.name}_gain_db"] = psnr_db(x_star, level.clean) - psnr_db(level.degraded, level.clean)
            if self._identity is not None:
                before, after = (self._identity.distances(image, level.clean) for image in (level.degraded, x_star))
                scalars[f"{level.name}_identity"] = float(after.mean())
                scalars[f"{level.name}_nearer"] = float((after < before).mean())
        return scalars

    def info(self) -> dict[str, Any]:
        """The weights of the terms beside the regression loss, of those that there are."""
        weights = {"identity_weight": self._identity_weight, "shared_error_weight": self._shared_error_weight}
        return {name: weight for name, weight in weights.items() if weight > 0}


def psnr_db(image: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """Mean over (B, 3, H, W) images in [0, 1] of the peak signal-to-noise ratio in dB."""
    mse = np.square(image - reference).mean(axis=(1, 2, 3))
    return float((-10 * np.log10(mse)).mean())
