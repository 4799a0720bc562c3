"""The training loop: one network, one stage, resumable to the bit on the same machine.

    stage.batch(index) -> stage.loss(model, batch) -> optimisers -> EMA -> checkpoint

A step's batch is computed in `micro_batches` parts, shared out among the processes that torchrun started; each part has
a running number, its index. Everything random is drawn from (seed, index), so a killed run goes on from its last
checkpoint exactly as it would have gone on without the kill, and a run on four processes sees what one process sees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from latent_pmrf.checkpoints import not_finite
from latent_pmrf.config import NetworkConfig
from latent_pmrf.data.prefetch import BatchSource, Prefetcher, WorkerPrefetcher
from latent_pmrf.nets.preconditioning import Preconditioning
from latent_pmrf.training.beginning import STATE_NAME, check_function
from latent_pmrf.training.checkpoint import (
    Weights,
    load_stage_state,
    load_state_config,
    load_training_state,
    save_training_state,
    save_weights,
)
from latent_pmrf.training.device import autocast, has_fast_bf16, to_device
from latent_pmrf.training.ema import EMA
from latent_pmrf.training.optim import OptimConfig, make_optimizers
from latent_pmrf.training.processes import ProcessGroup

_log = logging.getLogger(__name__)
Batch = TypeVar("Batch")
Scalars = dict[str, torch.Tensor]

MOST_SKIPPED = 50
"""Steps without a finite gradient, one after the other, at which a run has diverged."""


class Diverged(ValueError):
    """A run that learns nothing any more; its last checkpoint, if there is one, is left as it is."""


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

    def batch(self, index: int) -> Batch:
        """Micro-batch `index`, a pure function of the seed and the index; not called on the main thread."""
        ...

    def loss(self, model: nn.Module, batch: Batch, index: int) -> tuple[torch.Tensor, Scalars]:
        """The loss of micro-batch `index` and scalars to log; runs under autocast."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Scalars on held-out data, with the averaged weights."""
        ...

    def info(self) -> dict[str, Any]:
        """Facts to keep with the weights."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A stage that learns something beside its network, such as a discriminator."""

    def state(self) -> dict[str, torch.Tensor]:
        """What the stage needs to go on, besides its network."""
        ...

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state` gave.

        Raises:
            ValueError: The tensors are of another stage.
        """
        ...


class Trainer(Generic[Batch]):
    """Runs one stage in `run_dir`: `state.safetensors` (resume), `weights.safetensors` (EMA), TensorBoard scalars."""

    def __init__(
        self,
        stage: Stage[Batch],
        optim: OptimConfig,
        run_dir: Path,
        device: str = "cpu",
        group: ProcessGroup | None = None,
    ) -> None:
        self.stage = stage
        self.optim = optim
        self.run_dir = run_dir
        self.device = torch.device(device)
        self.group = group or ProcessGroup()
        self.step = 0
        self.train_seconds = 0.0
        self._skipped = 0
        if optim.micro_batches % self.group.size:
            raise ValueError(f"{self.group.size} processes cannot share micro_batches {optim.micro_batches} equally")
        if optim.threads:
            torch.set_num_threads(optim.threads)
        torch.manual_seed(optim.seed)
        if optim.precision == "bf16" and not has_fast_bf16(self.device):
            _log.warning("%s: this processor has no fast bfloat16; training in float32", stage.name)
        self.model = stage.build().to(self.device)
        self.ema = EMA(self.model, optim.ema_decay)
        self.optimizers = make_optimizers(self.model, optim)
        self._stop_asked = self._stop = False

    @property
    def state_path(self) -> Path:
        """The training checkpoint."""
        return self.run_dir / STATE_NAME

    def resume(self) -> bool:
        """Continue from the last checkpoint of `run_dir`, if there is one.

        Raises:
            ValueError: The checkpoint is of another network, of one that computes another function
                (`beginning.check_function`), or of other optimisers.
        """
        if not self.state_path.exists():
            return False
        if (saved := load_state_config(self.state_path)) is not None:
            check_function(self.stage.config, saved, "the weights of the run so far")
        info = load_training_state(self.state_path, self.model, self.ema, self.optimizers)
        if isinstance(self.stage, Stateful):
            self.stage.load_state(load_stage_state(self.state_path))
        self.step = int(info["step"])
        self.train_seconds = float(info["train_seconds"])
        _log.info("%s: resumed at step %d of %d", self.stage.name, self.step, self.optim.steps)
        return True

    def start_from(self, given: Weights) -> None:
        """Begin with weights of another run, as far as their names and shapes are those of this network.

        Its fixed random features come along: the layers after them have learnt to read just these. What
        preconditioning knows of the data stays this run's own.

        Raises:
            ValueError: None of them fits, or they compute another function (`beginning.check_function`).
        """
        check_function(self.stage.config, given.config)
        tensors = given.state_dict
        facts = {
            f"{name}.{buffer}"
            for name, module in self.model.named_modules()
            if isinstance(module, Preconditioning)
            for buffer, _ in module.named_buffers()
        }
        own = {name: value for name, value in self.model.state_dict().items() if name not in facts}
        fitting = {name: tensors[name] for name in own if name in tensors and tensors[name].shape == own[name].shape}
        kept = sorted(own.keys() - fitting.keys())
        if not fitting:
            raise ValueError("the weights to begin with are of another network: no tensor fits")
        self.model.load_state_dict(fitting, strict=False)
        self.ema = EMA(self.model, self.optim.ema_decay)
        _log.info("%s: begins with %d given tensors; not given: %s", self.stage.name, len(fitting), kept or "none")

    def train(self) -> None:
        """Run to `optim.steps`; SIGINT and SIGTERM finish a step, write a checkpoint and return.

        Raises:
            Diverged: Gradients or weights stay non-finite.
            ValueError: The processes of the run have not resumed at the same step.
        """
        if float(self.group.mean(torch.tensor(self.step, device=self.device))) != self.step:
            raise ValueError(f"the processes resumed at different steps: do all of them see {self.run_dir}?")
        console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        progress = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
        progress.disable = not (console.is_terminal and self.group.leads)
        with contextlib.ExitStack() as stack:
            for sig in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, sig, signal.signal(sig, self._ask_to_stop))
            batches = stack.enter_context(contextlib.closing(self._batches()))
            writer: SummaryWriter | None = None
            if self.group.leads:
                writer = SummaryWriter(self.run_dir / "tensorboard", purge_step=self.step + 1)
                stack.callback(writer.close)
            stack.enter_context(progress)
            task = progress.add_task(self.stage.name, total=self.optim.steps, completed=self.step, note="")
            self._run(batches, writer, lambda note: progress.update(task, completed=self.step, note=note))
        self.save()

    def save(self) -> None:
        """Write the training state and the averaged weights; only the leading process does.

        Raises:
            Diverged: A weight is no finite number; nothing is written.
        """
        if (name := not_finite(self.ema.shadow)) is not None:
            raise self._diverged(f"{name} is not finite after step {self.step}")
        self.save_state()
        if self.group.leads:
            self._save_weights("weights.safetensors")

    def save_state(self) -> None:
        """Write the training state alone; only the leading process does."""
        if self.group.leads:
            beside = self.stage.state() if isinstance(self.stage, Stateful) else None
            info, config = self._progress(), self.stage.config
            save_training_state(self.state_path, self.model, self.ema, self.optimizers, info, beside, config)

    def _diverged(self, how: str) -> Diverged:
        return Diverged(
            f"{self.stage.name}: {how}: it learns nothing any more, and was stopped. Its last checkpoint, if there is "
            "one, is from before: lower lr or grad_clip and go on from it, or begin anew with --restart"
        )

    def _progress(self) -> dict[str, float]:
        return {"step": self.step, "train_seconds": round(self.train_seconds, 1)}

    def _save_weights(self, name: str) -> None:
        optim = dataclasses.asdict(self.optim)
        recipe = {"stage": self.stage.name, "optim": optim, **self._progress(), **self.stage.info()}
        save_weights(self.run_dir / name, self.stage.config, self.ema.shadow, recipe)

    def _batches(self) -> BatchSource[tuple[int, Batch]]:
        indices = self.group.micro_batches(self.step, self.optim.micro_batches)
        make = _Numbered(self.stage)
        return WorkerPrefetcher(make, indices, self.optim.workers) if self.optim.workers else Prefetcher(make, indices)

    def _run(
        self, batches: BatchSource[tuple[int, Batch]], writer: SummaryWriter | None, report: Callable[[str], None]
    ) -> None:
        saved = reported = time.monotonic()
        smooth: float | None = None
        forward = self._forward()
        while self.step < self.optim.steps and not self._stop:
            started = time.monotonic()
            loss, scalars = self._step(forward, batches)
            self.step += 1
            if self._skipped >= MOST_SKIPPED:
                raise self._diverged(f"the gradients of the last {self._skipped} steps are not finite")
            now = time.monotonic()
            self.train_seconds += now - started
            smooth = loss if smooth is None or not math.isfinite(smooth) else 0.98 * smooth + 0.02 * loss
            report(f"loss {smooth:.4f}")
            if writer is None:
                continue
            if self.step % 10 == 0:
                _log_scalars(writer, {"loss": loss, **scalars, "lr": self.optim.lr_at(self.step - 1)}, self.step)
            if now - reported > 30:
                reported = now
                left = (self.optim.steps - self.step) * self.train_seconds / self.step
                _log.info("%s %d/%d loss %.4f, %.0f s left", self.stage.name, self.step, self.optim.steps, smooth, left)
            if self.step % self.optim.validate_every == 0 or self.step == self.optim.steps:
                self._validate(writer)
            if self.optim.keep_every and self.step % self.optim.keep_every == 0:
                self._save_weights(f"weights-{self.step}.safetensors")
            if now - saved > 60 * self.optim.checkpoint_minutes:
                saved = now
                self.save()

    def _forward(self) -> nn.Module:
        """The loss of a micro-batch as a module, so that its gradients can be averaged over the processes."""
        if self.optim.compile:
            self.model.compile()
        forward = _Loss(self.stage, self.model)
        return DistributedDataParallel(forward) if self.group.size > 1 else forward

    def _step(self, forward: nn.Module, batches: BatchSource[tuple[int, Batch]]) -> tuple[float, dict[str, float]]:
        self.model.train()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.optim.lr_at(self.step)
        self.model.zero_grad(set_to_none=True)
        share = self.optim.micro_batches // self.group.size
        bf16 = self.optim.precision == "bf16"
        parts: list[tuple[torch.Tensor, Scalars]] = []
        for part in range(share):
            index, batch = batches.next()
            batch = to_device(batch, self.device)
            last = part == share - 1
            with contextlib.nullcontext() if last else _unsynchronised(forward):
                with autocast(self.device, bf16=bf16):
                    loss, scalars = forward(batch, index)
                (loss / share).backward()
            parts.append((loss.detach(), scalars))
        limit = math.inf if self.optim.grad_clip is None else self.optim.grad_clip
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not torch.isfinite(norm):
            self._skipped += 1
            _log.warning("%s: step %d has a non-finite gradient and is skipped", self.stage.name, self.step)
        else:
            self._skipped = 0
            for optimizer in self.optimizers:
                optimizer.step()
        self.ema.update(self.model, self.step)
        # The stop is agreed on by all processes, and only here: one that returned alone, say after a signal during its
        # validation, would leave the others waiting.
        mean = torch.stack([loss for loss, _ in parts]).mean()
        loss, stop = self.group.mean(torch.stack([mean, mean.new_tensor(float(self._stop_asked))]))
        self._stop = float(stop) > 0
        return float(loss), {name: float(value) for name, value in {**parts[-1][1], "grad_norm": norm}.items()}

    def _validate(self, writer: SummaryWriter) -> None:
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema.shadow)
        self.model.eval()
        bf16 = self.optim.precision == "bf16"
        with torch.no_grad(), autocast(self.device, bf16=bf16):
            scalars = self.stage.validate(self.model)
        self.model.load_state_dict(weights)
        _log_scalars(writer, {f"val/{name}": value for name, value in scalars.items()}, self.step)
        text = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        _log.info("%s %d/%d validation: %s", self.stage.name, self.step, self.optim.steps, text)

    def _ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_asked = True


def _unsynchronised(forward: nn.Module) -> contextlib.AbstractContextManager[None]:
    """No averaging over the processes yet: the gradients of more micro-batches follow."""
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else contextlib.nullcontext()


class _Loss(nn.Module, Generic[Batch]):
    """A stage's loss as a module."""

    def __init__(self, stage: Stage[Batch], model: nn.Module) -> None:
        super().__init__()
        self.stage = stage
        self.model = model

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Scalars]:
        """Loss and scalars of micro-batch `index`."""
        return self.stage.loss(self.model, batch, index)


@dataclasses.dataclass(frozen=True, slots=True)
class _Numbered(Generic[Batch]):
    """Makes a micro-batch and keeps its number beside it."""

    stage: Stage[Batch]

    def __call__(self, index: int) -> tuple[int, Batch]:
        return index, self.stage.batch(index)


def _log_scalars(writer: SummaryWriter, scalars: Mapping[str, float], step: int) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)
