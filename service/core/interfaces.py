"""The seams of the service: what a composition root may exchange.

`service.composition` chooses one implementation of each and passes it down; tests pass fakes that implement the same
protocol.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from service.core.errors import ServiceError
from service.core.jobs import Admitted, Idempotency, JobStatus, Notice, PhotoJob, Progress
from service.core.results import StoredResult
from service.core.types import Face, FaceJob, FaceKey, FacePreview, Restoration, RestoredFace, Upload

OnProgress = Callable[[Progress], None]
OnPreview = Callable[[FacePreview], None]
Tensors = Mapping[str, npt.NDArray[np.generic]]
Arrays = dict[str, npt.NDArray[np.generic]]


@runtime_checkable
class InferenceBackend(Protocol):
    """Runs one network call; holds no state of a request."""

    @property
    def concurrent(self) -> bool:
        """Whether calls of the sampler's networks run side by side; if not, they queue for their turn."""
        ...

    async def infer(self, network: str, inputs: Tensors) -> Arrays:
        """Run `network` (`detector`, `estimator`, `vae_encoder`, `velocity`, `vae_decoder`) on one batch.

        Rows are the first axis of every input and output, at most `max_batch_size` of the manifest; outputs are float32
        and finite, by name.

        Raises:
            InferenceFailed: There is no such network, the call failed or an output is not finite; the message names the
                network.
            DependencyUnavailable: The server behind the backend does not answer.
        """
        ...

    async def ready(self) -> bool:
        """Whether every network can be called."""
        ...

    async def close(self) -> None:
        """Release sessions and connections."""
        ...


class Detector(Protocol):
    """Finds faces."""

    async def detect(
        self, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], *, det_threshold: float, min_face_px: int
    ) -> list[Face]:
        """Every face of a photo, (H, W, 3) RGB, largest box first."""
        ...


@runtime_checkable
class Broker(Protocol):
    """Queue of faces between gateways and workers.

    A worker that takes a face has it on lease: it says with `beat` that it is still at work. Where gateways and workers
    are processes of their own, a face whose lease has run out is given to another worker; after too many such
    deliveries its job fails. A result counts once, whoever brings it first.

    Every method raises DependencyUnavailable while the server behind the queue does not answer; `results` waits for it.
    """

    async def submit(self, faces: Sequence[FaceJob]) -> None:
        """Admit all faces of one photo, or none; a job that is in the queue already is joined, not admitted again.

        Raises:
            QueueFull: The lane has no room; `extra["retry_after_s"]` says when to come back.
            Draining: The queue is closed.
            ValueError: There is no face, or they are not of one photo and lane.
        """
        ...

    async def take(self, max_items: int, wait_s: float) -> list[FaceJob]:
        """Hand up to `max_items` faces to a worker, interactive lane first; empty after `wait_s` without work.

        The batch lane has its turn too, however busy the interactive one is. Many workers may take at once.
        """
        ...

    async def take_interactive(self, max_items: int) -> list[FaceJob]:
        """Hand up to `max_items` faces of the interactive lane to a worker that has no room for others; no wait."""
        ...

    async def beat(self, steps_done: Mapping[FaceKey, int]) -> set[FaceKey]:
        """Say that faces are being worked on, and how many steps each has taken.

        Returns:
            Those that nobody waits for from this worker: their job was withdrawn, has failed or is unknown, or another
            worker has them.
        """
        ...

    async def show(self, previews: Sequence[FacePreview]) -> None:
        """Show previews of faces that this worker has to those who wait for them; dropped where nobody looks."""
        ...

    async def complete(self, result: RestoredFace) -> None:
        """Store a result with its face's `queue_wait`, then acknowledge its entry; dropped if nobody waits for it."""
        ...

    async def fail(self, job: FaceJob, error: ServiceError) -> None:
        """Store a failure, then acknowledge its entry: the job has failed, its other faces are withdrawn."""
        ...

    async def hand_back(self, faces: Sequence[FaceJob]) -> None:
        """Give faces back that were taken and will not be finished here.

        They go to the front, and nothing is held against them.
        """
        ...

    async def results(
        self,
        job_id: str,
        timeout_s: float | None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> list[RestoredFace]:
        """Wait for every face of a job and forget it; ordered by face index.

        Args:
            job_id: A job that was submitted.
            timeout_s: Longest wait.
            on_progress: Told whenever a face has moved on.
            on_preview: Shown previews of faces, which may be lost on the way.

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

    async def depth(self) -> int:
        """Faces waiting, all lanes."""
        ...

    async def ready(self) -> bool:
        """Whether the queue can be used."""
        ...

    async def close(self) -> None:
        """Wake every waiter and release connections."""
        ...


@runtime_checkable
class JobQueue(Protocol):
    """Queue of photos between clients and gateways, and what became of them.

    A gateway that takes a job has it on lease, as a worker has a face. The first outcome of a job is its outcome: what
    arrives later, or from a gateway that has lost the job, is dropped. Jobs and results are forgotten some time after
    they have ended, and their idempotency keys with them.

    When a job with a `webhook_url` ends, whatever ends it, its notice (`service.core.notices`) enters the outbox in the
    same step. Only `delete` leaves none. Each job counts once among the photos of the metrics, in the process that
    has ended it.

    Every method raises DependencyUnavailable while the server behind the queue does not answer; `status`, `result`,
    `watch`, `previews`, `cancel` and `delete` raise NotFound where there is no such job, or not any more.
    """

    async def admit(self, job: PhotoJob, idempotency: Idempotency | None = None) -> Admitted:
        """Queue a photo, unless it repeats a request with the same idempotency key.

        A job that failed with a retryable error is not repeated: from now on its key stands for the new job.

        Raises:
            IdempotencyConflict: The key was used for another photo or other options.
            QueueFull: The lane has no room; `extra["retry_after_s"]` says when to come back.
            Draining: The queue is closed.
        """
        ...

    async def known_by(self, idempotency: Idempotency) -> str | None:
        """The job that a request with this key repeats; None for one that `admit` would queue.

        Raises:
            IdempotencyConflict: The key was used for another photo or other options.
        """
        ...

    async def take(self, wait_s: float) -> PhotoJob | None:
        """Hand a photo to a gateway, interactive lane first; None after `wait_s` without work."""
        ...

    async def beat(self, job_ids: Sequence[str]) -> set[str]:
        """Say that jobs are being worked on; returns those among them that nobody waits for or another gateway has."""
        ...

    async def note(self, job_id: str, progress: Progress) -> None:
        """Tell those who watch how far a running job is."""
        ...

    async def show(self, preview: FacePreview) -> None:
        """Show a face of a running job to those who look at its previews; dropped where nobody does."""
        ...

    async def finish(self, restoration: Restoration) -> bool:
        """Store the result of job `restoration.report.id` and the notice about it, then acknowledge the job.

        Returns:
            Whether it is the job's outcome; else it was dropped.

        Raises:
            ImageTooLarge: It is more than can be kept, so that nobody could fetch it; the job goes on, and should fail.
        """
        ...

    async def fail(self, job_id: str, error: ServiceError) -> bool:
        """Store why a job failed and the notice about it, then acknowledge the job; whether it is its outcome."""
        ...

    async def hand_back(self, job_id: str) -> None:
        """Give a job back that was taken and will not be finished here.

        It goes to the front, and nothing is held against it.
        """
        ...

    async def keep(self, restoration: Restoration, owner: str = "") -> StoredResult | None:
        """Keep the result of a photo of its owner's that was answered without a job; None when it does not fit."""
        ...

    async def status(self, job_id: str) -> JobStatus:
        """Where a job is."""
        ...

    async def result(self, job_id: str) -> StoredResult:
        """The result of a job that has succeeded.

        Raises:
            NotFinished: It has not ended yet.
            ServiceError: It failed or was cancelled; the error that ended it.
        """
        ...

    async def upload(self, job_id: str) -> Upload:
        """The photo of a job that was to keep it, however far it is.

        Raises:
            UploadGone: It was not to be kept, or is not there any more, or there is no such job.
        """
        ...

    def watch(self, job_id: str) -> AsyncGenerator[JobStatus, None]:
        """Where a job is now, and again whenever that changes, until it has ended; the last status is a final one.

        Who reads slowly misses what lies between. A job that is deleted meanwhile ends as cancelled. Close the
        generator: it may hold a connection.

        Raises:
            Draining: The queue was closed before the job ended.
        """
        ...

    def previews(self, job_id: str) -> AsyncGenerator[FacePreview, None]:
        """Previews of a job's faces from now on, the newest of each; who reads slowly misses some. It does not end.

        Close the generator: it may hold a connection.
        """
        ...

    async def cancel(self, job_id: str) -> JobStatus:
        """Withdraw a job; one that has ended stays as it is."""
        ...

    async def delete(self, job_id: str) -> None:
        """Withdraw a job and forget everything about it at once."""
        ...

    async def due_notice(self, wait_s: float) -> Notice | None:
        """A notice whose time has come, on lease; None after `wait_s` without one."""
        ...

    async def settle_notice(self, notice: Notice, retry_in_s: float | None) -> None:
        """A delivery was attempted: drop the notice, or let it come due again as the next attempt."""
        ...

    async def postpone_notice(self, notice: Notice, wait_s: float) -> None:
        """No delivery was attempted: let the notice come due later as the same attempt."""
        ...

    async def depth(self) -> int:
        """Photos waiting, all lanes."""
        ...

    async def ready(self) -> bool:
        """Whether the queue can be used."""
        ...

    async def close(self) -> None:
        """Wake every waiter and release connections."""
        ...
