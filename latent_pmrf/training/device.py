"""Tensors to where the network is, and the arithmetic that is fast there; on a CPU nothing is copied."""

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


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 pays on a device; every GPU that is worth training on has it.

    A CPU without AVX-512 or its Arm equivalent takes 70 times as long as in float32.
    """
    if device.type != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # what oneDNN itself asks; it has no public name


def autocast(device: torch.device, *, bf16: bool = True) -> torch.autocast:
    """Mixed precision in bfloat16 where it is asked for and pays, else float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16 and has_fast_bf16(device))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A tensor, or a tuple of tensors, on `device`; whatever else a batch may be stays.

    Pictures travel with 8 bits and become float32 in [0, 1] there: processes hand on, and the bus carries, a quarter.
    """
    moved: Any = batch
    if isinstance(batch, torch.Tensor):
        moved = batch.to(device)
        if batch.dtype == torch.uint8:
            moved = moved.float().div_(255)
    elif isinstance(batch, tuple):
        moved = tuple(to_device(part, device) for part in batch)
    return moved
