"""The processes of one training run: `torchrun` starts them, each joins the group and takes its share of every step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import distributed

from latent_pmrf.training.device import check_device


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among those of the run.

    Attributes:
        rank: Number of this process; 0 validates, logs and writes.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def micro_batches(self, first_step: int, per_step: int) -> Iterator[int]:
        """Running numbers of this process's micro-batches, for ever; those of step s are in [s, s + 1) * per_step."""
        step = first_step
        while True:
            yield from range(step * per_step + self.rank, (step + 1) * per_step, self.size)
            step += 1

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """The block in the leading process, then in the others at once: what it has written, they find.

        Where it fails, the others wait until torchrun ends them.
        """
        if not self.leads:
            distributed.barrier()
        yield
        if self.leads and self.size > 1:
            distributed.barrier()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the processes."""
        if self.size > 1:
            distributed.all_reduce(values)
            values = values / self.size
        return values


@contextlib.contextmanager
def joined(device: str) -> Iterator[tuple[ProcessGroup, str]]:
    """Join the processes that `torchrun` started, if it did, and leave them at the end.

    Args:
        device: `cpu`, or `cuda`; under torchrun every process of a machine takes a GPU of its own.

    Yields:
        This process's place and its device.

    Raises:
        ValueError: torchrun started more processes than this machine has GPUs.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield ProcessGroup(), device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        check_device(device)
        torch.cuda.set_device(device)
    if device.startswith("cuda"):
        distributed.init_process_group("nccl", device_id=torch.device(device))
    else:
        distributed.init_process_group("gloo")
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
