"""Tensors to where the network is; on a CPU nothing is copied."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch")


def device_of(model: nn.Module) -> torch.device:
    """Where the weights of `model` lie."""
    return next(model.parameters()).device


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A tensor, or a tuple of tensors, on `device`; whatever else a batch may be stays."""
    moved: Any = batch
    if isinstance(batch, torch.Tensor):
        moved = batch.to(device)
    elif isinstance(batch, tuple):
        moved = tuple(to_device(part, device) for part in batch)
    return moved
