"""Stage 3: the rectified flow from the latent of the posterior mean to the latent of the clean face (paper, eq. 3).

The pairs (z_0, z_1) come from `latents`; with `FrozenNetworks` without an autoencoder the same stage trains PMRF, whose
flow lives in pixel space.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from latent_pmrf.config import HDiTConfig
from latent_pmrf.data.validation import ValidationSet
from latent_pmrf.flow.path import sample_path, stratified_times
from latent_pmrf.flow.solver import euler
from latent_pmrf.flow.source import add_source_noise
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.hdit import HDiT
from latent_pmrf.training.beginning import STATISTICS_NAME
from latent_pmrf.training.checkpoint import write_json
from latent_pmrf.training.draws import draw_seed
from latent_pmrf.training.estimator import psnr_db
from latent_pmrf.training.latents import Indices, Pair, PairSource, latents_of
from latent_pmrf.training.losses import band_energy

Weighting = Literal["uniform", "relative"]

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_STATISTICS_PAIRS = 256
_VALIDATION_STEPS = 10
_FEW_STEPS = (1, 2, 5)
_LATER_TIMES = (0.1, 0.9)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceNoise:
    """How much noise the source gets; one of the two.

    Attributes:
        sigma: Standard deviation in all channels, in the flow's units (the public code's: 0.1).
        factor: Standard deviation per channel, over the root mean square of what the flow must move there.
    """

    sigma: float | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        """Refuse both and none."""
        if (self.sigma is None) == (self.factor is None):
            raise ValueError("the source noise is either one sigma_s or a noise_factor")

    def sigma_s(self, distance: torch.Tensor) -> torch.Tensor:
        """Standard deviation per channel, from the root mean square (C,) of z_1 - z_0."""
        return torch.full_like(distance, self.sigma) if self.sigma is not None else (self.factor or 0.0) * distance


class FlowStage:
    """Trains HDiT on `E || v_theta(z_t, t) - (z_1 - z_0) ||^2` with stratified t.

    The statistics of its space are measured once and kept in `run_dir`: mean and deviation of every channel of clean
    latents, which the flow sees without that mean and in units of that deviation. A flow that begins with the weights
    of another keeps to the other's, in whose units they compute; its source noise is its own. Without `normalise` the
    latents stay as the autoencoder makes them, as the public training of Latent-PMRF leaves them.

    The weighting `relative` divides the squared error of every channel by the mean square of z_1 - z_0 there, so that
    channels in which the flow has little to do, but which carry most of the picture, count as much as the others.

    Raises:
        ValueError: The statistics are those of other networks, of another source noise or of another normalisation, or
            the network is of another number of channels.
    """

    name = "flow"

    def __init__(  # noqa: PLR0913 - the facts of a stage
        self,
        config: HDiTConfig,
        pairs: PairSource,
        *,
        batch_size: int,
        seed: int,
        noise: SourceNoise,
        weighting: Weighting = "uniform",
        normalise: bool = True,
        given: LatentStatistics | None = None,
        run_dir: Path,
        validation: Sequence[ValidationSet],
    ) -> None:
        self.config = config
        self._pairs = pairs
        self._batch_size = batch_size
        self._seed = seed
        self._noise = noise
        self._validation = validation
        self._normalise = normalise and not pairs.networks.in_pixels
        if given is not None and not self._normalise and not given.is_identity:
            raise ValueError(
                "the weights to begin with saw latents without their latent_mean and in units of their latent_std, and "
                "this recipe leaves latents as they are: set normalise to true"
            )
        self._given = given
        self.statistics, self._distance = self._measure(run_dir / STATISTICS_NAME)
        scale = self._distance.square() if weighting == "relative" else torch.ones_like(self._distance)
        self._error_scale = scale[:, None, None]  # (C, 1, 1)
        channels = len(self.statistics.mean)
        if config.in_channels != channels:
            raise ValueError(f"a flow of {channels} channels needs in_channels: {channels}, not {config.in_channels}")
        self._sources = [latents_of(level, pairs.networks) for level in validation]

    def build(self) -> nn.Module:
        """HDiT with zero-initialised output, so that the flow starts as the identity, or as its linear guess."""
        network = HDiT(self.config)
        if network.preconditioning is not None:
            network.preconditioning.set_scales(self._distance, torch.tensor(self.statistics.sigma_s))
        return network

    def batch(self, index: int) -> Pair:
        """A pair as its source draws it, photographs in the order of each epoch's permutation."""
        draws = index * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epochs, offsets = np.divmod(draws, self._pairs.count)
        orders = {int(epoch): self._order(int(epoch)) for epoch in set(epochs)}
        entries = np.array([orders[int(e)][o] for e, o in zip(epochs, offsets, strict=True)], dtype=np.int64)
        return self._pairs.draw(entries, draws)

    def loss(self, model: nn.Module, batch: Pair, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean squared error of the velocity, and its mean in each quarter of t."""
        mean, z_1 = (self.statistics.normalise(z) for z in self._pairs.latents(batch))
        generator = torch.Generator().manual_seed(draw_seed(self._seed, index))
        source = self._noisy(mean, generator)
        t = stratified_times(len(mean), generator).to(mean.device)
        point = sample_path(source, z_1, t)
        squares = (self._velocity(model, mean)(point.x_t, point.t) - point.v_t).square()  # (B, C, h, w)
        error = squares.detach().mean((1, 2, 3))
        quarter = (point.t * 4).long().clamp(max=3)
        scalars = {f"loss_q{q}": error[quarter == q].mean() for q in range(4) if bool((quarter == q).any())}
        return (squares / self._error_scale.to(squares.device)).mean(), scalars

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Velocity loss by quarter of t, and PSNR and sharpness of 10-step samples, per degradation level."""
        scalars: dict[str, float] = {}
        generator = torch.Generator().manual_seed(self._seed)
        for level, (z_0, z_1) in zip(self._validation, self._sources, strict=True):
            mean, target = self.statistics.normalise(z_0), self.statistics.normalise(z_1)
            source = self._noisy(mean, generator)
            velocity = self._velocity(model, mean)
            for quarter in range(4):
                t = source.new_full((len(source),), (quarter + 0.5) / 4)
                point = sample_path(source, target, t)
                loss = (velocity(point.x_t, t) - point.v_t).square().mean()
                scalars[f"{level.name}_loss_q{quarter}"] = float(loss)
            scalars |= self._samples(level, velocity, source, _VALIDATION_STEPS)
        return scalars

    def info(self) -> dict[str, Any]:
        """What export needs beside the weights."""
        encoder = self._pairs.networks.encoder_digest()
        return {
            "space": "pixel" if self._pairs.networks.in_pixels else "latent",
            "latent_mean": self.statistics.mean,
            "latent_std": self.statistics.std,
            "sigma_s": self.statistics.sigma_s,
            "source": self._pairs.networks.source,
            **({} if encoder is None else {"encoder_sha256": encoder}),
        }

    def _noisy(self, mean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The source of a mean: with noise of the generator's, drawn on the CPU so that every device sees the same."""
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        return add_source_noise(mean, self.statistics.sigma_s, noise)

    def _few_steps(self, model: nn.Module) -> dict[str, float]:
        """Figures of samples of few steps, per degradation level: the validation of finishes."""
        scalars: dict[str, float] = {}
        for steps in _FEW_STEPS:
            generator = torch.Generator().manual_seed(self._seed)
            for level, (z_0, _) in zip(self._validation, self._sources, strict=True):
                mean = self.statistics.normalise(z_0)
                samples = self._samples(level, self._velocity(model, mean), self._noisy(mean, generator), steps)
                scalars |= {f"steps{steps}_{name}": value for name, value in samples.items()}
        return scalars

    def _samples(
        self, level: ValidationSet, velocity: Velocity, source: torch.Tensor, num_steps: int
    ) -> dict[str, float]:
        """PSNR and sharpness of samples of a level, by the level's name."""
        sample = euler(lambda z, t: velocity(z, z.new_full((len(z),), t)), source, num_steps)
        image = self._pairs.networks.decode(self.statistics.denormalise(sample)).cpu()
        return self._figures(level, image)

    def _figures(self, level: ValidationSet, image: torch.Tensor) -> dict[str, float]:
        """PSNR and sharpness of pictures (B, 3, S, S) in [0, 1] of a level's faces."""
        sharpness = band_energy(image) / band_energy(torch.from_numpy(level.clean))
        return {
            f"{level.name}_psnr_db": psnr_db(image.numpy(), level.clean),
            f"{level.name}_sharpness": float(sharpness.mean()),
        }

    def _velocity(self, model: nn.Module, mean: torch.Tensor) -> Velocity:
        """The velocity at states and times, float32, for sources of these means."""
        given = (mean,) if self.config.mean_conditioned else ()
        return lambda z_t, t: model(z_t, t, *given).float()

    def _order(self, epoch: int) -> Indices:
        return np.random.default_rng((self._seed, 2, epoch)).permutation(self._pairs.count)

    def _measure(self, path: Path) -> tuple[LatentStatistics, torch.Tensor]:
        """Statistics of the space, and the root mean square (C,) of z_1 - z_0 there."""
        networks = self._pairs.networks
        origin = {
            "source": networks.source,
            "noise": dataclasses.asdict(self._noise),
            "normalise": self._normalise,
            **networks.digests(),
        }
        if path.exists():
            found = {"normalise": not networks.in_pixels, **json.loads(path.read_text())}
            changed = sorted(name for name, value in origin.items() if found.get(name, value) != value)
            if changed or "distance" not in found:
                raise ValueError(f"{path} is of another {', '.join(changed) or 'version'}: restart the stage")
            kept = tuple(found["mean"]), tuple(found["std"])
            if self._given is not None and kept != (self._given.mean, self._given.std):
                raise ValueError(f"{path} is not of the weights that the run begins with: restart the stage")
        else:
            found = {**self._measure_pairs(), **origin}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
        mean, std, sigma_s, distance = (tuple(found[name]) for name in ("mean", "std", "sigma_s", "distance"))
        return LatentStatistics(mean, std, sigma_s), torch.tensor(distance)

    def _measure_pairs(self) -> dict[str, list[float]]:
        count = min(_STATISTICS_PAIRS, self._pairs.count)
        chosen = np.random.default_rng((self._seed, 3)).choice(self._pairs.count, count, replace=False).astype(np.int64)
        parts = [self._pairs.latents(self._pairs.draw(part, part)) for part in np.array_split(chosen, -(-count // 8))]
        z_0, z_1 = (torch.cat(ends) for ends in zip(*parts, strict=True))
        if self._normalise:
            mean, std = z_1.mean((0, 2, 3)), z_1.std((0, 2, 3))
        else:
            mean, std = z_1.new_zeros(z_1.shape[1]), z_1.new_ones(z_1.shape[1])
        taken = std if self._given is None else std.new_tensor(self._given.std)
        distance = (z_1 - z_0).square().mean((0, 2, 3)).sqrt() / taken
        values = {"mean": mean, "std": std, "sigma_s": self._noise.sigma_s(distance), "distance": distance}
        found = {key: [round(float(entry), 6) for entry in value] for key, value in values.items()}
        if self._given is None:
            return found
        _tell_differences(found, self._given)
        return {**found, "mean": list(self._given.mean), "std": list(self._given.std)}


def _tell_differences(found: Mapping[str, Sequence[float]], given: LatentStatistics) -> None:
    """Say how far what was measured here is from the statistics of the weights that a flow begins with."""
    columns = zip(found["mean"], found["std"], given.mean, given.std, strict=True)
    shifts, factors = zip(*((abs(m - g_m) / g_s, s / g_s) for m, s, g_m, g_s in columns), strict=True)
    _log.info(
        "flow: keeps latent_mean and latent_std of the weights that it begins with; those measured here are up to %.3g "
        "deviations away, and %.3g to %.3g times as large; its own sigma_s is %s, theirs was %s",
        *(max(shifts), min(factors), max(factors), _span(found["sigma_s"]), _span(given.sigma_s)),
    )


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def finish_times(rows: int, first_step: float, generator: torch.Generator) -> torch.Tensor:
    """Times (rows,) of a finish: 0 for a share `first_step` of the rows, stratified later times for the rest."""
    first = max(1, round(first_step * rows))
    low, high = _LATER_TIMES
    later = stratified_times(rows - first, generator) if rows > first else torch.zeros(0)
    return torch.cat([torch.zeros(first), low + (high - low) * later])
