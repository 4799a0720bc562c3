"""How a stage is optimised: the `optim` section of a recipe, and the optimisers made from it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from latent_pmrf.training.muon import Muon, hidden_kernels


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """How a stage is optimised.

    Attributes:
        steps: Optimiser steps in all.
        batch_size: Rows per step, over all micro-batches and processes.
        lr: Learning rate after warm-up.
        micro_batches: Parts that a step's batch is computed in. They are shared out among the processes of `torchrun`,
            and gradients are accumulated over those of one process; the data of a run depend on this number and not on
            the number of processes.
        warmup_steps: Linear warm-up.
        warmup_lr_ratio: Learning rate at the start of the warm-up, over `lr`; 0 starts at `lr / warmup_steps`.
        decay_steps: Cosine decay to `lr * final_lr_ratio` over the last steps; before that the rate is constant, so the
            length of a run may still be changed until the decay begins.
        final_lr_ratio: See `decay_steps`.
        optimizer: `muon` takes AdamW for what is not a hidden layer's kernel (see `latent_pmrf.training.muon`).
        betas: AdamW moments.
        weight_decay: Decoupled decay of both optimisers.
        ema_decay: Decay of the averaged weights.
        grad_clip: Largest gradient norm; None clips nothing.
        precision: `bf16` runs the forward pass under autocast where the processor is fast at it, `fp32` never does.
        compile: Compile the network with `torch.compile`.
        threads: CPU threads of torch, 0 for all.
        workers: Processes that prepare batches, 0 for a thread.
        seed: Seed of initialisation and of every batch, below 2 ** 32.
        checkpoint_minutes: Time between checkpoints.
        validate_every: Steps between validations.
        keep_every: Steps between averaged weights that are kept as `weights-{step}.safetensors`, 0 for none.
    """

    steps: int
    batch_size: int
    lr: float
    micro_batches: int = 1
    warmup_steps: int = 100
    warmup_lr_ratio: float = 0.0
    decay_steps: int = 0
    final_lr_ratio: float = 0.01
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    grad_clip: float | None = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    threads: int = 0
    workers: int = 0
    seed: int = 0
    checkpoint_minutes: float = 3.0
    validate_every: int = 500
    keep_every: int = 0

    def __post_init__(self) -> None:
        """Refuse what is out of bounds, and a batch that cannot be divided."""
        for name in ("steps", "batch_size", "micro_batches", "validate_every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "decay_steps", "threads", "workers", "keep_every", "weight_decay"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("warmup_lr_ratio", "final_lr_ratio"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "from 0 to 1")
        _check("lr", self.lr, self.lr > 0, "above 0")
        _check("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "from 0 to below 1")
        _check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "from 0 to below 1")
        _check("grad_clip", self.grad_clip, self.grad_clip is None or self.grad_clip > 0, "above 0, or null for none")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to below 2 ** 32")
        _check("checkpoint_minutes", self.checkpoint_minutes, self.checkpoint_minutes >= 0, "0 or more")
        if self.batch_size % self.micro_batches:
            raise ValueError(f"micro_batches {self.micro_batches} must divide batch_size {self.batch_size}")

    @property
    def micro_batch_size(self) -> int:
        """Rows of one forward pass."""
        return self.batch_size // self.micro_batches

    def lr_at(self, step: int) -> float:
        """Learning rate of optimiser step `step` (from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.lr * (self.warmup_lr_ratio + (1 - self.warmup_lr_ratio) * warm) * self.decay_at(step)

    def decay_at(self, step: int) -> float:
        """What the decay leaves of the learning rate at step `step`, 1 before it begins."""
        left = self.steps - step
        if left >= self.decay_steps:
            return 1.0
        cosine = 0.5 * (1 - math.cos(math.pi * left / self.decay_steps))
        return self.final_lr_ratio + (1 - self.final_lr_ratio) * cosine


def of_length(optim: OptimConfig, steps: int) -> OptimConfig:
    """The same for another number of steps.

    Warm-up and decay stay as long as they are, so that a run may be made longer; where the steps are too few for that,
    both become shorter in proportion.
    """
    if optim.warmup_steps + optim.decay_steps <= steps:
        return dataclasses.replace(optim, steps=steps)
    warmup, decay = (count * steps // optim.steps for count in (optim.warmup_steps, optim.decay_steps))
    return dataclasses.replace(optim, steps=steps, warmup_steps=warmup, decay_steps=decay)


def _check(name: str, value: object, holds: bool, bounds: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {bounds}, not {value}")


def make_optimizers(model: nn.Module, optim: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or for everything but the hidden kernels and Muon for those."""
    kernels = hidden_kernels(model) if optim.optimizer == "muon" else []
    taken = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    adamw = torch.optim.AdamW(rest, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
    return [adamw, Muon(kernels, lr=optim.lr, weight_decay=optim.weight_decay)] if kernels else [adamw]
