"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import nn


class EMA:
    """Shadow copy of a network: `shadow <- decay * shadow + (1 - decay) * weights` after each step.

    The decay is ramped, `min(decay, (1 + step) / (10 + step))`, so that the random start is forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: value.detach().clone().float() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow the weights after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.shadow[name].lerp_(value.detach().float(), 1 - decay)
            else:
                self.shadow[name].copy_(value)
