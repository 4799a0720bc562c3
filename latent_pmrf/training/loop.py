"""The training loop: one network, one stage, resumable to the bit on the same machine.

    stage.batch(step) -> stage.loss(model, batch) -> optimiser -> EMA -> checkpoint

Everything random is drawn from (seed, step), so a killed run goes on from its last checkpoint exactly as it would
have gone on without the kill.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from latent_pmrf.config import NetworkConfig
from latent_pmrf.data.datasets import Prefetcher
from latent_pmrf.training.checkpoint import load_training_state, save_training_state, save_weights
from latent_pmrf.training.device import to_device
from latent_pmrf.training.ema import EMA
from latent_pmrf.training.muon import Muon, hidden_kernels

_log = logging.getLogger(__name__)
Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """How a stage is optimised.

    Attributes:
        steps: Optimiser steps in all.
        batch_size: Rows per step.
        lr: Learning rate after warm-up.
        warmup_steps: Linear warm-up.
        decay_steps: Cosine decay to `lr * final_lr_ratio` over the last steps; before that the rate is constant, so the
            length of a run may still be changed until the decay begins.
        final_lr_ratio: See `decay_steps`.
        optimizer: `muon` takes AdamW for what is not a hidden layer's kernel (see `latent_pmrf.training.muon`).
        betas: AdamW moments.
        weight_decay: Decoupled decay of both optimisers.
        ema_decay: Decay of the averaged weights.
        grad_clip: Largest gradient norm.
        precision: `bf16` runs the forward pass under autocast, `fp32` does not.
        threads: CPU threads of torch, 0 for all.
        seed: Seed of initialisation and of every batch.
        checkpoint_minutes: Time between checkpoints.
        validate_every: Steps between validations.
    """

    steps: int
    batch_size: int
    lr: float
    warmup_steps: int = 100
    decay_steps: int = 0
    final_lr_ratio: float = 0.01
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    grad_clip: float = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    threads: int = 0
    seed: int = 0
    checkpoint_minutes: float = 3.0
    validate_every: int = 500

    def lr_at(self, step: int) -> float:
        """Learning rate of optimiser step `step` (from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = self.steps - step
        if left >= self.decay_steps:
            return self.lr * warm
        cosine = 0.5 * (1 - math.cos(math.pi * left / self.decay_steps))
        return self.lr * warm * (self.final_lr_ratio + (1 - self.final_lr_ratio) * cosine)


class Stage(Protocol[Batch]):
    """What the loop needs to know of a stage."""

    name: str

    @property
    def config(self) -> NetworkConfig:
        """Specification of the network."""
        ...

    def build(self) -> nn.Module:
        """The network at its start."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step, a pure function of the seed and the step; runs on a background thread."""
        ...

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss and scalars to log; runs under autocast."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Scalars on held-out data, with the averaged weights."""
        ...

    def info(self) -> dict[str, Any]:
        """Facts to keep with the weights."""
        ...


class Trainer(Generic[Batch]):
    """Runs one stage in `run_dir`: `state.safetensors` (resume), `weights.safetensors` (EMA), TensorBoard scalars."""

    def __init__(self, stage: Stage[Batch], optim: OptimConfig, run_dir: Path, device: str = "cpu") -> None:
        self.stage = stage
        self.optim = optim
        self.run_dir = run_dir
        self.device = torch.device(device)
        self.step = 0
        self.train_seconds = 0.0
        if optim.threads:
            torch.set_num_threads(optim.threads)
        torch.manual_seed(optim.seed)
        self.model = stage.build().to(self.device)
        self.ema = EMA(self.model, optim.ema_decay)
        self.optimizers = _optimizers(self.model, optim)
        self._stop = False

    @property
    def state_path(self) -> Path:
        """The training checkpoint."""
        return self.run_dir / "state.safetensors"

    def resume(self) -> bool:
        """Continue from the last checkpoint of `run_dir`, if there is one.

        Raises:
            ValueError: The checkpoint is of another network or optimiser.
        """
        if not self.state_path.exists():
            return False
        info = load_training_state(self.state_path, self.model, self.ema, self.optimizers)
        self.step = int(info["step"])
        self.train_seconds = float(info["train_seconds"])
        _log.info("%s: resumed at step %d of %d", self.stage.name, self.step, self.optim.steps)
        return True

    def train(self) -> None:
        """Run to `optim.steps`; SIGINT and SIGTERM finish the step, write a checkpoint and return."""
        previous = {sig: signal.signal(sig, self._request_stop) for sig in (signal.SIGINT, signal.SIGTERM)}
        prefetcher = Prefetcher(self.stage.batch, self.step)
        writer = SummaryWriter(self.run_dir / "tensorboard", purge_step=self.step + 1)
        console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        progress = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
        progress.disable = not console.is_terminal
        try:
            with progress:
                task = progress.add_task(self.stage.name, total=self.optim.steps, completed=self.step, note="")
                self._run(prefetcher, writer, lambda note: progress.update(task, completed=self.step, note=note))
        finally:
            prefetcher.close()
            writer.close()
            for sig, handler in previous.items():
                signal.signal(sig, handler)
        self.save()

    def save(self) -> None:
        """Write the training state and the averaged weights."""
        facts = {"step": self.step, "train_seconds": round(self.train_seconds, 1)}
        save_training_state(self.state_path, self.model, self.ema, self.optimizers, facts)
        recipe = {"stage": self.stage.name, "optim": dataclasses.asdict(self.optim), **facts, **self.stage.info()}
        save_weights(self.run_dir / "weights.safetensors", self.stage.config, self.ema.shadow, recipe)

    def _run(self, prefetcher: Prefetcher[Batch], writer: SummaryWriter, report: Any) -> None:  # noqa: ANN401
        saved = reported = time.monotonic()
        smooth: float | None = None
        while self.step < self.optim.steps and not self._stop:
            started = time.monotonic()
            loss, scalars = self._step(prefetcher.next())
            self.step += 1
            now = time.monotonic()
            self.train_seconds += now - started
            smooth = loss if smooth is None or not math.isfinite(smooth) else 0.98 * smooth + 0.02 * loss
            if self.step % 10 == 0:
                _log_scalars(writer, {"loss": loss, **scalars, "lr": self.optim.lr_at(self.step)}, self.step)
            report(f"loss {smooth:.4f}")
            if now - reported > 30:
                reported = now
                left = (self.optim.steps - self.step) * self.train_seconds / self.step
                _log.info("%s %d/%d loss %.4f, %.0f s left", self.stage.name, self.step, self.optim.steps, smooth, left)
            if self.step % self.optim.validate_every == 0 or self.step == self.optim.steps:
                self._validate(writer)
            if now - saved > 60 * self.optim.checkpoint_minutes:
                saved = now
                self.save()

    def _step(self, batch: Batch) -> tuple[float, dict[str, float]]:
        self.model.train()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.optim.lr_at(self.step)
        bf16 = self.optim.precision == "bf16"
        batch = to_device(batch, self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss, scalars = self.stage.loss(self.model, batch, self.step)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.grad_clip)
        if not torch.isfinite(norm):
            _log.warning("%s: step %d has a non-finite gradient and is skipped", self.stage.name, self.step)
        else:
            for optimizer in self.optimizers:
                optimizer.step()
        self.ema.update(self.model, self.step)
        return float(loss.detach()), {name: float(value) for name, value in {**scalars, "grad_norm": norm}.items()}

    def _validate(self, writer: SummaryWriter) -> None:
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema.shadow)
        self.model.eval()
        bf16 = self.optim.precision == "bf16"
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            scalars = self.stage.validate(self.model)
        self.model.load_state_dict(weights)
        _log_scalars(writer, {f"val/{name}": value for name, value in scalars.items()}, self.step)
        text = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        _log.info("%s %d/%d validation: %s", self.stage.name, self.step, self.optim.steps, text)

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop = True


def _optimizers(model: nn.Module, optim: OptimConfig) -> list[torch.optim.Optimizer]:
    kernels = hidden_kernels(model) if optim.optimizer == "muon" else []
    taken = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    adamw = torch.optim.AdamW(rest, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
    return [adamw, Muon(kernels, lr=optim.lr, weight_decay=optim.weight_decay)] if kernels else [adamw]


def _log_scalars(writer: SummaryWriter, scalars: Mapping[str, float], step: int) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)
