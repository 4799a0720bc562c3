"""What finishes have in common that hold a flow to what it drew when they began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.func import functional_call

from latent_pmrf.checkpoints import with_prefix
from latent_pmrf.training.flow import FlowStage


class BegunFlowStage(FlowStage):
    """Keeps the weights that the run began with; they belong to the training state."""

    finish: ClassVar[str]

    def __init__(self, *args: Any, **stage: Any) -> None:
        super().__init__(*args, **stage)
        self._began: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def _first_velocity(self, model: nn.Module, source: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """The velocity (B, C, h, w) float32 at t = 0 of the network as the run began, which is now if none was kept."""
        if not self._began:
            self._began = {name: value.detach().clone() for name, value in model.state_dict().items()}
        given = (mean,) if self.config.mean_conditioned else ()
        return functional_call(model, self._began, (source, source.new_zeros(len(source)), *given)).float()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures of samples of few steps, per degradation level."""
        return self._few_steps(model)

    def state(self) -> dict[str, torch.Tensor]:
        """The weights that the run began with."""
        return {f"began.{name}": value for name, value in self._began.items()}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state` gave.

        Raises:
            ValueError: The run so far was not such a finish.
        """
        began = with_prefix(tensors, "began.")
        if not began:
            raise ValueError(f"the run so far was no {self.finish} finish: begin another with --init")
        self._began = {name: value.to(self._pairs.networks.device) for name, value in began.items()}
