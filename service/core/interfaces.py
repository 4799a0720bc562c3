"""The seams of the service: what a composition root may exchange.

`cli` chooses one implementation of each and passes it down; tests pass fakes that implement the same protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from service.core.errors import ServiceError
from service.core.types import FaceJob, RestoredFace

Tensors = Mapping[str, npt.NDArray[np.generic]]


@runtime_checkable
class InferenceBackend(Protocol):
    """Runs one network call; holds no state of a request."""

    async def infer(self, network: str, inputs: Tensors) -> dict[str, npt.NDArray[np.generic]]:
        """Run `network` (`detector`, `estimator`, `vae_encoder`, `velocity`, `vae_decoder`) on one batch.

        Rows are the first axis of every input and output; outputs are float32 and finite.

        Raises:
            InferenceFailed: The call failed or an output is not finite; the message names the network.
            DependencyUnavailable: The server behind the backend does not answer.
        """
        ...

    async def ready(self) -> bool:
        """Whether every network can be called."""
        ...

    async def close(self) -> None:
        """Release sessions and connections."""
        ...


@runtime_checkable
class Broker(Protocol):
    """Queue between gateways and workers. A job is a photo; queue entries are its faces."""

    async def submit(self, faces: Sequence[FaceJob]) -> None:
        """Admit all faces of one photo, or none.

        Raises:
            QueueFull: The lane has no room; `extra["retry_after_s"]` says when to come back.
            Draining: The queue is closed.
        """
        ...

    async def take(self, max_items: int, wait_s: float) -> list[FaceJob]:
        """Hand up to `max_items` faces to a worker, interactive lane first; empty after `wait_s` without work.

        The batch lane has its turn too, however busy the interactive one is. Many workers may take at once.
        """
        ...

    async def complete(self, result: RestoredFace) -> None:
        """Store a result with its face's `queue_wait`, then acknowledge its entry; dropped if nobody waits for it."""
        ...

    async def fail(self, job: FaceJob, error: ServiceError) -> None:
        """Store a failure, then acknowledge its entry: the job has failed, its other faces are withdrawn."""
        ...

    async def results(self, job_id: str, timeout_s: float | None) -> list[RestoredFace]:
        """Wait for every face of a job and forget it; ordered by face index.

        Raises:
            ServiceError: The first failure of a face.
            Cancelled: The job was withdrawn, or is not known.
            DeadlineExceeded: `timeout_s` passed; the job is cancelled.
            Draining: The queue was closed first.
        """
        ...

    async def cancel(self, job_id: str) -> None:
        """Withdraw a job: queued faces are dropped, running ones are freed at the next step."""
        ...

    async def cancelled(self, job_ids: Sequence[str]) -> set[str]:
        """Which of these jobs nobody waits for: withdrawn, failed or unknown."""
        ...

    async def depth(self) -> int:
        """Faces waiting, all lanes."""
        ...

    async def ready(self) -> bool:
        """Whether the queue can be used."""
        ...

    async def close(self) -> None:
        """Wake every waiter and release connections."""
        ...
