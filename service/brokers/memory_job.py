"""One photo of the in-memory queue, from its admission until it is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from service.core.jobs import Failure, Idempotency, JobState, JobStatus, PhotoJob, Progress, no_result
from service.core.preview_box import PreviewBox
from service.core.results import StoredResult
from service.core.types import FacePreview, Upload


@dataclass(slots=True, eq=False)
class MemoryJob:
    """A photo.

    Attributes:
        job_id: Its id.
        created_s: Unix time of its admission.
        photo: What is to be done; None once it has ended.
        idempotency: The key it was admitted under.
        state: Where it is in its life.
        taken_s: When a gateway took it.
        progress: How far its faces are.
        failure: Why it failed.
        result: Its result.
        upload: The photo's bytes, once it has ended and if they are kept.
        expires_s: When it is forgotten, once it has ended.
        watchers: Set whenever something has changed.
        boxes: Of those who look at its previews.
        owner: Whose it is.
    """

    job_id: str
    created_s: float
    photo: PhotoJob | None = None
    idempotency: Idempotency | None = None
    state: JobState = JobState.QUEUED
    taken_s: float = 0.0
    progress: Progress | None = None
    failure: Failure | None = None
    result: StoredResult | None = None
    upload: Upload | None = None
    expires_s: float | None = None
    watchers: set[asyncio.Event] = field(default_factory=set)
    boxes: set[PreviewBox] = field(default_factory=set)
    owner: str = ""

    def wake(self) -> None:
        """Let those who watch look again."""
        for watcher in self.watchers:
            watcher.set()

    def status(self, position: int | None) -> JobStatus:
        """The job as seen from outside."""
        return JobStatus(
            job_id=self.job_id,
            state=self.state,
            created_s=self.created_s,
            expires_s=self.expires_s,
            position=position,
            progress=self.progress,
            failure=self.failure,
            report=None if self.result is None else self.result.restoration.report,
        )

    async def previews(self) -> AsyncGenerator[FacePreview, None]:
        """Previews from now on; it does not end."""
        box = PreviewBox()
        self.boxes.add(box)
        try:
            while True:
                for preview in await box.take():
                    yield preview
        finally:
            self.boxes.discard(box)

    def outcome(self) -> StoredResult:
        """The result.

        Raises:
            NotFinished: The job has not ended yet.
            Cancelled: It was withdrawn.
            ServiceError: It failed; the error that ended it.
        """
        if self.result is None:
            raise no_result(self.state, self.failure)
        return self.result
