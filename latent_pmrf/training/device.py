"""Tensors to where the network is; on a CPU nothing is copied."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch")


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: The name is none of torch's, or there is no such device here.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


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
