"""Stage 3: the rectified flow from the latent of the posterior mean to the latent of the clean face (paper, eq. 8).

The pairs (z_0, z_1) come from `latents`: photographs, each degraded several times, through the frozen networks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from latent_pmrf.config import HDiTConfig
from latent_pmrf.data.validation import ValidationSet
from latent_pmrf.flow.path import sample_path, stratified_times
from latent_pmrf.flow.solver import euler
from latent_pmrf.flow.source import add_source_noise
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.hdit import HDiT
from latent_pmrf.training.estimator import psnr_db
from latent_pmrf.training.latents import LatentPairs, Pair, latents_of
from latent_pmrf.training.losses import band_energy

_STATISTICS_PAIRS = 256


class FlowStage:
    """Trains HDiT on `E || v_theta(z_t, t) - (z_1 - z_0) ||^2` with stratified t."""

    name = "flow"

    def __init__(  # noqa: PLR0913 - the facts of a stage
        self,
        config: HDiTConfig,
        latents: LatentPairs,
        *,
        batch_size: int,
        seed: int,
        noise_factor: float,
        run_dir: Path,
        validation: Sequence[ValidationSet],
    ) -> None:
        self.config = config
        self._latents = latents
        self._batch_size = batch_size
        self._seed = seed
        self._noise_factor = noise_factor
        self._validation = validation
        self.statistics = self._statistics(run_dir / "latent_statistics.json")
        self._sources = [latents_of(level, latents) for level in validation]

    def build(self) -> nn.Module:
        """HDiT with zero-initialised output, so that the flow starts as the identity."""
        return HDiT(self.config)

    def batch(self, step: int) -> Pair:
        """Normalised (z_0, z_1): one photograph of each epoch's permutation, one degradation copy per epoch."""
        positions = step * self._batch_size + np.arange(self._batch_size)
        epochs, offsets = np.divmod(positions, self._latents.count)
        orders = {int(epoch): self._order(int(epoch)) for epoch in set(epochs)}
        indices = np.array([orders[int(e)][o] for e, o in zip(epochs, offsets, strict=True)], dtype=np.int64)
        z_0, z_1 = self._latents.get(indices)
        return self.statistics.normalise(z_0), self.statistics.normalise(z_1)

    def loss(self, model: nn.Module, batch: Pair, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean squared error of the velocity, and its mean in each quarter of t."""
        z_0, z_1 = batch
        generator = torch.Generator().manual_seed((self._seed << 32) + step)
        noise = torch.randn(z_0.shape, generator=generator).to(z_0.device)
        t = stratified_times(len(z_0), generator).to(z_0.device)
        point = sample_path(add_source_noise(z_0, self.statistics.sigma_s, noise), z_1, t)
        error = (model(point.x_t, point.t).float() - point.v_t).square().mean((1, 2, 3))
        quarter = (point.t * 4).long().clamp(max=3)
        scalars = {f"loss_q{q}": error.detach()[quarter == q].mean() for q in range(4) if bool((quarter == q).any())}
        return error.mean(), scalars

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Velocity loss by quarter of t, and PSNR and sharpness of 10-step samples, per degradation level."""
        scalars: dict[str, float] = {}
        generator = torch.Generator().manual_seed(self._seed)
        for level, (z_0, z_1) in zip(self._validation, self._sources, strict=True):
            source, target = self.statistics.normalise(z_0), self.statistics.normalise(z_1)
            noise = torch.randn(source.shape, generator=generator).to(source.device)
            source = add_source_noise(source, self.statistics.sigma_s, noise)
            for quarter in range(4):
                t = source.new_full((len(source),), (quarter + 0.5) / 4)
                point = sample_path(source, target, t)
                loss = (model(point.x_t, t).float() - point.v_t).square().mean()
                scalars[f"{level.name}_loss_q{quarter}"] = float(loss)
            sample = euler(lambda z, t: model(z, z.new_full((len(z),), t)).float(), source, 10)
            image = self._latents.decode(self.statistics.denormalise(sample)).cpu()
            sharpness = band_energy(image) / band_energy(torch.from_numpy(level.clean))
            scalars[f"{level.name}_psnr_db"] = psnr_db(image.numpy(), level.clean)
            scalars[f"{level.name}_sharpness"] = float(sharpness.mean())
        return scalars

    def info(self) -> dict[str, Any]:
        """What export needs beside the weights."""
        return {
            "latent_mean": self.statistics.mean,
            "latent_std": self.statistics.std,
            "sigma_s": self.statistics.sigma_s,
            "noise_factor": self._noise_factor,
        }

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self._seed, 2, epoch)).permutation(self._latents.count)

    def _statistics(self, path: Path) -> LatentStatistics:
        if path.exists():
            return LatentStatistics(**{key: tuple(values) for key, values in json.loads(path.read_text()).items()})
        count = min(_STATISTICS_PAIRS, self._latents.count)
        chosen = np.random.default_rng((self._seed, 3)).choice(self._latents.count, count, replace=False)
        z_0, z_1 = self._latents.get(chosen)
        mean, std = z_1.mean((0, 2, 3)), z_1.std((0, 2, 3))
        distance = (z_1 - z_0).square().mean((0, 2, 3)).sqrt() / std
        values = {"mean": mean, "std": std, "sigma_s": self._noise_factor * distance}
        plain = {key: [round(float(entry), 6) for entry in value] for key, value in values.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plain, indent=1))
        return LatentStatistics(**{key: tuple(entries) for key, entries in plain.items()})
