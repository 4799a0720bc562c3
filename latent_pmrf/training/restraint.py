"""A restraint finish of a trained flow: it draws as much as is missing, and no more.

Where a posterior mean is sharp already, detail of the usual strength replaces what is known by what is made up. By the
law of total variance a sample may differ from the posterior mean by as much as the clean face does on average. So the
prediction of the end of the path, `x_1 = z_t + (1 - t) v`, is trained towards what the network drew when the run began,
its distance from the mean multiplied, channel by channel and place by place, by the ratio of the two strengths. Both
are root mean squares over a window of the latent; the squared error averages over what no source tells.

Rows start at the source, or later on the straight line from there to that aim.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from latent_pmrf.training.begun import BegunFlowStage
from latent_pmrf.training.flow import finish_times
from latent_pmrf.training.latents import Pair

_FLOOR = 1e-6  # of mean squares, in units of the latent's deviations


@dataclass(frozen=True, slots=True)
class Restraint:
    """How the finish is done.

    Attributes:
        most: Largest ratio: 1 makes nothing stronger than it was.
        window: Side of the window in cells of the latent, odd.
        first_step: Share of the rows that start at t = 0.
    """

    most: float = 1.0
    window: int = 9
    first_step: float = 0.75

    def __post_init__(self) -> None:
        """Refuse what trains nothing."""
        if not (self.most > 0 and self.window > 0 and self.window % 2 == 1 and 0 < self.first_step <= 1):
            raise ValueError("restraint needs most above 0, an odd window, and first_step above 0 and up to 1")


class RestraintFlowStage(BegunFlowStage):
    """Trains HDiT towards what it drew, where that is too much towards less of it.

    Args:
        restraint: How the finish is done.
        stage: What `FlowStage` takes.
    """

    finish = "restraint"

    def __init__(self, *args: Any, restraint: Restraint, **stage: Any) -> None:
        super().__init__(*args, **stage)
        self._terms = restraint

    def loss(self, model: nn.Module, batch: Pair, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean squared distance from the aim, every channel alike, and the mean ratio."""
        mean, z_1 = (self.statistics.normalise(z) for z in self._pairs.latents(batch))
        generator = torch.Generator().manual_seed((self._seed << 32) + index)
        source = self._noisy(mean, generator)
        t = finish_times(len(mean), self._terms.first_step, generator).to(mean.device)[:, None, None, None]
        drawn = source + self._first_velocity(model, source, mean) - mean
        ratio = self._ratio(z_1 - mean, drawn)
        aim = mean + ratio * drawn
        z_t = torch.lerp(source, aim, t)
        predicted = z_t + (1 - t) * self._velocity(model, mean)(z_t, t.flatten())
        error = ((predicted - aim) / self._distance.to(mean.device)[:, None, None]).square().mean()
        return error, {"ratio": ratio.mean()}

    def info(self) -> dict[str, Any]:
        """What export needs, and the terms."""
        return {**super().info(), "restraint": dataclasses.asdict(self._terms)}

    def _ratio(self, missing: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w): how strong the one is beside the other, around every place."""
        return (self._strength(missing) / self._strength(drawn)).clamp(max=self._terms.most)

    def _strength(self, z: torch.Tensor) -> torch.Tensor:
        around = self._terms.window // 2
        mean_square = nn.functional.avg_pool2d(
            z.square(), self._terms.window, stride=1, padding=around, count_include_pad=False
        )
        return (mean_square + _FLOOR).sqrt()
