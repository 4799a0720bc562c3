"""What both clients can do: the same calls over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, Unpack

from service.client.options import Options
from service.client.results import Answer, ImageSource, Job, Limits, Restored
from service.client.supply import PhotoSource

TIMEOUT_S = 300.0
"""Longest time of a call with all its attempts, unless the caller says otherwise."""
WINDOW = 16
"""Photos of a batch that may be unanswered at once, unless the service's own window is smaller."""


class AsyncRestorationClient(Protocol):
    """A client of the service; connections are kept, and every call may be made at the same time as others.

    All calls are made in one event loop, which has the connections.

    Every call raises `RestorationError` for what the service refuses, with its stable `code`, and `ServerUnreachable`
    when there is no service to refuse it. Calls that the service calls retryable are tried again, as is a lost
    connection: nothing is done twice by that.
    """

    async def restore(
        self, image: ImageSource, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Restored:
        """Restore one photo.

        Args:
            image: Its bytes, whatever holds them, or its path.
            timeout_s: For all attempts together; None: the client's own.
            **options: As HTTP's form fields; what is left out is the service's default.

        Raises:
            OSError: The file cannot be read.
        """
        ...

    def restore_batch(
        self, photos: PhotoSource, *, window: int = WINDOW, **options: Unpack[Options]
    ) -> AsyncGenerator[Answer, None]:
        """Restore any number of photos; answers come in the order in which they are ready.

        A photo that fails is answered by its error, and the batch goes on; if the service stays away, the batch ends
        with `ServerUnreachable`. Close the generator (`contextlib.aclosing`) if it is left before its end.

        Args:
            photos: Photos, or paths, which name themselves. Read no further than the window allows.
            window: Photos that may be unanswered at once, at least 1; with gRPC, answers not taken yet are of them.
            **options: For photos without options of their own.
        """
        ...

    async def submit(
        self,
        image: ImageSource,
        *,
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Queue a photo as a job that goes on by itself.

        Args:
            image: Its bytes, whatever holds them, or its path.
            idempotency_key: A repetition with the same key means the same job; None: one is made for this call, so
                that its own attempts never make two jobs.
            webhook_url: Who is told how it ended.
            timeout_s: For all attempts together; None: the client's own.
            **options: As for `restore`.

        Raises:
            OSError: The file cannot be read.
        """
        ...

    async def get(self, job_id: str) -> Job:
        """Where a job is."""
        ...

    def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Where a job is, and again whenever that changes, until it has ended; lost connections are made again."""
        ...

    async def result(self, job_id: str) -> Restored:
        """The image of a job that has succeeded, or of a photo while the service keeps it."""
        ...

    async def cancel(self, job_id: str) -> Job:
        """Withdraw a job; one that has ended stays as it is."""
        ...

    async def delete(self, job_id: str) -> None:
        """Withdraw a job and forget photo, report and image."""
        ...

    async def limits(self) -> Limits:
        """What the service accepts."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...
