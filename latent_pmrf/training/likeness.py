"""A likeness finish of a trained flow: faces that are nearer to who was photographed, and otherwise as they were.

Detail that an adversarial finish draws costs likeness, because nobody asked whose detail it is. Here the prediction of
the end of the path, `x_1 = z_t + (1 - t) v`, is trained on these terms:

- the identity loss of its picture (`identity`), as face restoration does it (GFPGAN, Wang et al., 2021),
  every face over what it was when the run began: severely degraded ones would outweigh all others;
- the squared distance from what the network drew when the run began, every channel alike, which keeps its detail;
- where it has a weight, the distance of the picture's local amplitudes from those of the clean face
  (`losses.band_amplitude_l1`): as much texture as there is, for a decoder that draws it more strongly than before;
- where it has a weight, how far the change repeats from cell to cell of the latent (`losses.repetition`). A face
  embedder likes a faint lattice of that pitch, which no person has on the face.

Rows start at the source, or later on the straight line from there to what the network drew when the run began.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from latent_pmrf.checkpoints import with_prefix
from latent_pmrf.data.validation import ValidationSet
from latent_pmrf.training.draws import draw_seed
from latent_pmrf.training.flow import FlowStage, finish_times
from latent_pmrf.training.identity import IdentityLoss
from latent_pmrf.training.latents import Pair
from latent_pmrf.training.losses import band_amplitude_l1, repetition

_PERIODS = 8  # along a side of a window in which repetitions are looked for


@dataclass(frozen=True, slots=True)
class Likeness:
    """How the finish is done.

    Attributes:
        weight: Of the identity loss beside the distance from the network's first prediction.
        amplitude_weight: Of the distance between amplitudes.
        lattice_weight: Of what repeats in the change.
        first_step: Share of the rows that start at t = 0.
    """

    weight: float = 0.5
    amplitude_weight: float = 0.0
    lattice_weight: float = 0.0
    first_step: float = 0.75

    def __post_init__(self) -> None:
        """Refuse what trains nothing."""
        least = min(self.amplitude_weight, self.lattice_weight)
        if not (self.weight > 0 and least >= 0 and 0 < self.first_step <= 1):
            raise ValueError("likeness needs a weight above 0, and first_step above 0 and up to 1")


class LikenessFlowStage(FlowStage):
    """Trains HDiT on the identity loss near to what it was.

    The weights that the run began with belong to the training state.

    Args:
        likeness: How the finish is done.
        identity: The identity loss.
        stage: What `FlowStage` takes.
    """

    def __init__(self, *args: Any, likeness: Likeness, identity: IdentityLoss, **stage: Any) -> None:
        super().__init__(*args, **stage)
        self._terms = likeness
        self._identity = identity.to(self._pairs.networks.device)
        self._began: dict[str, torch.Tensor] = {}
        self._built: nn.Module | None = None

    def build(self) -> nn.Module:
        """The network of the flow; until the first step its weights are those that the run began with."""
        self._built = super().build()
        return self._built

    def loss(self, model: nn.Module, batch: Pair, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The sum of the terms."""
        if not self._began:
            self._began = {name: value.detach().clone() for name, value in model.state_dict().items()}
        mean, z_1 = (self.statistics.normalise(z) for z in self._pairs.latents(batch))
        generator = torch.Generator().manual_seed(draw_seed(self._seed, index))
        source = self._noisy(mean, generator)
        t = finish_times(len(mean), self._terms.first_step, generator).to(mean.device)
        given = (mean,) if self.config.mean_conditioned else ()
        with torch.no_grad():
            velocity = functional_call(model, self._began, (source, torch.zeros_like(t), *given)).float()
        z_t, aim = source + t[:, None, None, None] * velocity, source + velocity
        predicted = z_t + (1 - t)[:, None, None, None] * self._velocity(model, mean)(z_t, t)
        moved = ((predicted - aim) / self._distance.to(mean.device)[:, None, None]).square().mean()
        networks = self._pairs.networks
        picture = networks.picture(self.statistics.denormalise(predicted))
        clean = networks.decode(self.statistics.denormalise(z_1))
        with torch.no_grad():
            began = networks.picture(self.statistics.denormalise(aim))
        weighted = {
            "moved": (1.0, moved),
            "identity": (self._terms.weight, self._identity.over(began, picture, clean, draw_seed(self._seed, index))),
            "amplitude": (self._terms.amplitude_weight, band_amplitude_l1(picture, clean)),
            "lattice": (self._terms.lattice_weight, _lattice(picture - began, picture.shape[-1] // z_1.shape[-1])),
        }
        loss = torch.stack([weight * term for weight, term in weighted.values()]).sum()
        return loss, {name: term.detach() for name, (_, term) in weighted.items()}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR, sharpness and distance to the clean face of samples of few steps, per degradation level."""
        return self._few_steps(model)

    def info(self) -> dict[str, Any]:
        """What export needs, and the weights of the terms."""
        return {**super().info(), "likeness": dataclasses.asdict(self._terms)}

    def _figures(self, level: ValidationSet, image: torch.Tensor) -> dict[str, float]:
        distances = self._identity.distances(image.numpy(), level.clean)
        return {**super()._figures(level, image), f"{level.name}_identity": float(distances.mean())}

    def state(self) -> dict[str, torch.Tensor]:
        """The weights that the run began with."""
        began = self._began or ({} if self._built is None else self._built.state_dict())
        return {f"began.{name}": value for name, value in began.items()}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state` gave.

        Raises:
            ValueError: The run so far was not a likeness finish.
        """
        began = with_prefix(tensors, "began.")
        if not began:
            raise ValueError("the run so far was no likeness finish: begin another with --init")
        self._began = {name: value.to(self._pairs.networks.device) for name, value in began.items()}


def _lattice(change: torch.Tensor, cell_px: int) -> torch.Tensor:
    """What repeats in a change of pictures from cell to cell of the latent, or to every second one."""
    total = change.new_zeros(())
    for period_px in (cell_px, 2 * cell_px):
        total = total + repetition(change, period_px, _PERIODS * period_px)
    return total
