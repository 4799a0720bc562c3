"""An adversarial finish of a trained flow: whole faces in one or a few steps, instead of their mean.

A velocity network that saw few faces is right on average long before it is right in detail: few Euler steps give
(nearly) the posterior mean, many give grain. Here its prediction of the end of the path, `x_1 = z_t + (1 - t) v`, is
trained on two terms, as Sauer et al. do ("Adversarial diffusion distillation", 2023; in latents, "Fast high-resolution
image synthesis with latent adversarial diffusion distillation", 2024):

- the squared error, each channel weighted by the energy that it has in the picture, which keeps colours, shading and
  large shapes at the posterior mean;
- an opponent that compares the detail with that of clean faces (`discriminator`), which asks for texture.

Most rows start at t = 0, from the source. The others start where the flow itself would be later: on the straight line
to its own first prediction. To keep to that is their squared error, every channel alike, as in a rectification of the
flow (Liu et al., "Flow straight and fast", 2022): against the clean face they would unlearn what the first step made
up, because the state alone does not say what is true of it, and more steps would fall back to the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from latent_pmrf.checkpoints import with_prefix
from latent_pmrf.training.checkpoint import load_optimizer_tensors, optimizer_tensors
from latent_pmrf.training.discriminator import Discriminator, Judged, augmented, discriminator_loss, relativistic
from latent_pmrf.training.draws import draw_seed
from latent_pmrf.training.flow import FlowStage, finish_times
from latent_pmrf.training.latents import Pair
from latent_pmrf.training.optim import OptimConfig

_PENALTY_EVERY = 4
_ENERGY_PAIRS = 8


@dataclass(frozen=True, slots=True)
class Adversarial:
    """How the finish is done.

    Attributes:
        weight: Of the opponent's term beside the squared error.
        lr: Learning rate of the opponent; it decays as the flow's does, without warm-up.
        penalty: Weight of the gradient penalties, applied every fourth step with four times the weight.
        first_step: Share of the rows that start at t = 0.
        augment: Whether the opponent sees its rows shifted and cut (`discriminator.augmented`).
    """

    weight: float = 0.1
    lr: float = 5e-4
    penalty: float = 1.0
    first_step: float = 0.75
    augment: bool = False

    def __post_init__(self) -> None:
        """Refuse what trains nothing."""
        if not (self.weight > 0 and self.lr > 0 and self.penalty >= 0 and 0 < self.first_step <= 1):
            raise ValueError("adversarial needs weight and lr above 0, penalty from 0, first_step above 0 and up to 1")


class AdversarialFlowStage(FlowStage):
    """Trains HDiT and a discriminator in turns, one step each.

    The discriminator sees the rows of the step and of the step before. It belongs to the stage, is saved with the
    training state, and is of no use afterwards.

    Args:
        adversarial: How the finish is done.
        optim: The flow's optimisation, whose schedule the discriminator follows.
        stage: What `FlowStage` takes.

    Raises:
        ValueError: The step is divided into micro-batches.
    """

    def __init__(self, *args: Any, adversarial: Adversarial, optim: OptimConfig, **stage: Any) -> None:
        super().__init__(*args, **stage)
        if optim.micro_batches > 1:
            raise ValueError("an adversarial finish takes whole steps: set micro_batches to 1, and use one process")
        self._terms = adversarial
        self._optim = optim
        self._device = self._pairs.networks.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._opponent = Discriminator(self.config.in_channels).to(self._device)
        self._opponent_optimizer = torch.optim.AdamW(
            self._opponent.parameters(), lr=adversarial.lr, betas=(0.0, 0.99), weight_decay=0.0
        )
        self._last: Judged | None = None
        self._channel_weights = self._energy()

    def loss(self, model: nn.Module, batch: Pair, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A step of the discriminator, and then the flow's loss against it."""
        mean, z_1 = (self.statistics.normalise(z) for z in self._pairs.latents(batch))
        generator = torch.Generator().manual_seed(draw_seed(self._seed, index))
        source = self._noisy(mean, generator)
        t = finish_times(len(mean), self._terms.first_step, generator).to(mean.device)
        z_t, aim = self._states(model, mean, source, t)
        predicted = z_t + (1 - t)[:, None, None, None] * self._velocity(model, mean)(z_t, t)
        distance = self._distance.to(mean.device)[:, None, None]
        judged = Judged(clean=(z_1 - mean) / distance, made=(predicted - mean) / distance, mean=mean)
        squares = ((predicted - torch.where(t[:, None, None, None] > 0, aim, z_1)) / distance).square().mean((2, 3))
        weights = torch.where(t[:, None] > 0, 1 / squares.shape[1], self._channel_weights)
        error = (squares * weights).sum(1)  # (B,)
        # Without a cache of the weights' casts: the discriminator's change in between.
        bf16 = torch.is_autocast_enabled(mean.device.type)
        with torch.autocast(mean.device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False):
            opponent = self._train_opponent(judged.detached(), index)
            game = self._play(judged, index)
        scalars = {"opponent": opponent, "game": game.detach(), "error": error.detach().mean()}
        made, clean = (detail.detach()[t == 0].square().mean() for detail in (judged.made, judged.clean))
        return error.mean() + self._terms.weight * game, scalars | {"detail": made / clean}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR and sharpness of samples of few steps, per degradation level."""
        return self._few_steps(model)

    def info(self) -> dict[str, Any]:
        """What export needs, and the weight of the opponent."""
        return {**super().info(), "adversarial_weight": self._terms.weight}

    def state(self) -> dict[str, torch.Tensor]:
        """The discriminator, its optimiser, and the rows of the last step."""
        tensors = {f"opponent.{name}": value for name, value in self._opponent.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(self._opponent_optimizer).items()}
        last = self._last
        return tensors | ({"clean": last.clean, "made": last.made, "mean": last.mean} if last else {})

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state` gave.

        Raises:
            ValueError: The run so far was not an adversarial one.
        """
        opponent = with_prefix(tensors, "opponent.")
        if opponent.keys() != self._opponent.state_dict().keys():
            raise ValueError("the run so far had no such discriminator: begin another with --init")
        self._opponent.load_state_dict(opponent)
        load_optimizer_tensors(self._opponent_optimizer, with_prefix(tensors, "optimizer."))
        if "clean" in tensors:
            rows = (tensors[name].to(self._device) for name in ("clean", "made", "mean"))
            self._last = Judged(*rows)

    def _states(self, model: nn.Module, mean: torch.Tensor, source: torch.Tensor, t: torch.Tensor) -> Pair:
        """States on the straight line from the source to the flow's own prediction there, and that prediction.

        Both (B, C, h, w), and for rows at t = 0 the source.
        """
        later = t > 0
        if not bool(later.any()):
            return source, source
        z_t, aim = source.clone(), source.clone()
        with torch.no_grad():
            velocity = self._velocity(model, mean[later])(source[later], torch.zeros_like(t[later]))
        z_t[later] += t[later, None, None, None] * velocity
        aim[later] += velocity
        return z_t, aim

    def _train_opponent(self, judged: Judged, index: int) -> torch.Tensor:
        """One step of the discriminator; its loss, without gradient. Rows that are not finite teach it nothing."""
        rows = self._seen(judged if self._last is None else judged.beside(self._last), index, turn=0)
        penalty = _PENALTY_EVERY * self._terms.penalty if index % _PENALTY_EVERY == 0 else 0.0
        for group in self._opponent_optimizer.param_groups:
            group["lr"] = self._terms.lr * self._optim.decay_at(index)
        self._opponent_optimizer.zero_grad(set_to_none=True)
        loss = discriminator_loss(self._opponent, rows, penalty)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._opponent.parameters(), math.inf)
        self._last = judged if torch.isfinite(norm) else None
        if self._last is not None:
            self._opponent_optimizer.step()
        return loss.detach()

    def _play(self, judged: Judged, index: int) -> torch.Tensor:
        """The flow's side of the game: its details are to win; no gradient reaches the discriminator."""
        judged = self._seen(judged, index, turn=1)
        self._opponent.requires_grad_(False)
        clean, made = (self._opponent(detail, judged.mean) for detail in (judged.clean, judged.made))
        self._opponent.requires_grad_(True)
        return relativistic(made, clean)

    def _seen(self, judged: Judged, index: int, turn: int) -> Judged:
        """The rows as the discriminator sees them in its own turn, 0, and in the flow's, 1."""
        if not self._terms.augment:
            return judged
        draw = (1 << 31) + 2 * index + turn  # beside those of the noise
        return augmented(judged, torch.Generator().manual_seed(draw_seed(self._seed, draw)))

    def _energy(self) -> torch.Tensor:
        """(C,) weights of the channels: the picture's energy for a usual distance there, 1 / C on average."""
        count = min(_ENERGY_PAIRS, self._pairs.count)
        entries = np.arange(count, dtype=np.int64)
        _, z_1 = self._pairs.latents(self._pairs.draw(entries, entries))
        per_unit = self._pairs.networks.pixel_energy(z_1, torch.Generator().manual_seed(self._seed))
        std = torch.tensor(self.statistics.std, device=per_unit.device)
        energy = per_unit * (std * self._distance.to(per_unit.device)).square()
        return energy / energy.sum()
