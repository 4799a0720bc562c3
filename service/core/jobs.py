"""Photos that are restored while nobody holds the line: what a gateway is asked to do, how far it is, how it ended.

PhotoJob -> queued -> running -> succeeded | failed | cancelled
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from service.core.errors import Cancelled, NotFinished, NotFound, ServiceError, UploadGone
from service.core.origin import Origin
from service.core.types import Lane, Report, RestoreOptions, Upload

CLOCKS_DIFFER_S = 2.0
"""At most, from machine to machine: deadlines travel as Unix time."""


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing will change any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Charge:
    """What was charged for a photo when it was taken: one face.

    Attributes:
        account: Whose.
        photo_px: Pixels of the photo.
        window_s: Length of the account's window.
    """

    account: str
    photo_px: int
    window_s: float


@dataclass(frozen=True, slots=True)
class PhotoJob:
    """A queue entry for gateways: one photo.

    Attributes:
        job_id: Identifies the job; where no keys are asked for, it is all that is needed to fetch its result.
        upload: The photo's bytes.
        options: The caller's choices, `seed` filled in: a job that is begun twice gives the same result.
        lane: Queue lane, of the photo and of its faces.
        deadline_s: Unix time after which the job fails instead of being begun.
        webhook_url: Who is told how it ended, or None.
        origin: The request that brought it, or None.
        charge: What was charged for it, to be settled when it has ended; None where nothing was.
        keep_upload: Whether the photo stays as long as the job is remembered, so that it can be restored again.
        previews: Whether those who watch are shown previews of its faces.
        owner: Whose it is; empty where no keys are asked for.
    """

    job_id: str
    upload: Upload
    options: RestoreOptions
    lane: Lane
    deadline_s: float
    webhook_url: str | None = None
    origin: Origin | None = None
    charge: Charge | None = None
    keep_upload: bool = False
    previews: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What makes a repeated request the same request.

    Attributes:
        key: The caller's `Idempotency-Key`.
        fingerprint: Digest of photo and options; another one under the same key is a mistake of the caller's.
    """

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the faces of a running photo are.

    Attributes:
        num_faces: Faces that are restored.
        faces_done: Faces that are finished.
        num_steps: Euler steps of all faces together.
        steps_done: Steps taken by all faces together.
    """

    num_faces: int
    faces_done: int
    num_steps: int
    steps_done: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, as the error tree says it (`service.core.errors`).

    Attributes:
        code: Stable code.
        detail: What happened.
        hint: What to do about it.
        extra: Values for machines.
    """

    code: str
    detail: str
    hint: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: ServiceError) -> Self:
        """What to keep of an error."""
        return cls(error.code, error.detail, error.hint, dict(error.extra))

    def to_error(self) -> ServiceError:
        """The error again; one whose code is not known here, because another version kept it, is a plain one."""
        kind = _find_kind(ServiceError, self.code) or ServiceError
        return kind(self.detail, hint=self.hint, **self.extra)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as seen from outside.

    Attributes:
        job_id: The job.
        state: Where it is in its life.
        created_s: Unix time of its admission.
        expires_s: Unix time after which it is forgotten, once it has ended; else None.
        position: Jobs before it in its lane, 0 for the next one; None unless it is queued.
        progress: How far its faces are; None before they are known.
        failure: Why it failed; None unless it did.
        report: What was done; None unless it has succeeded.
    """

    job_id: str
    state: JobState
    created_s: float
    expires_s: float | None = None
    position: int | None = None
    progress: Progress | None = None
    failure: Failure | None = None
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to an admission.

    Attributes:
        job_id: The job that does the work: the new one, or the one admitted before under the same idempotency key.
        is_new: Whether it was admitted now.
    """

    job_id: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to a webhook that has yet to be delivered.

    Attributes:
        notice_id: The same for every attempt, so that the receiver can tell a repetition (`webhook-id`).
        url: Where to.
        body: The JSON document, exactly as it is signed.
        attempt: Attempts before this one.
        origin: The request that brought the job, or None; handed over when the job ended.
        owner: Whose job it was; empty where no keys are asked for.
    """

    notice_id: str
    url: str
    body: bytes
    attempt: int = 0
    origin: Origin | None = None
    owner: str = ""


def no_result(state: JobState, failure: Failure | None) -> ServiceError:
    """What is said to those who ask for the result of a job that has none: not yet, or why never."""
    if failure is not None:
        return failure.to_error()
    if state is JobState.CANCELLED:
        return Cancelled("the restoration was cancelled")
    return NotFinished(f"the restoration is {state.value}", hint="watch its events, or ask again")


def unknown_job() -> NotFound:
    """What is said of a job that is not there, and of one that is somebody else's."""
    return NotFound("no such restoration", hint="results expire; see result_ttl_s in /v1/limits")


def upload_gone() -> UploadGone:
    """What is said of a photo that was not to be kept, is gone, or is somebody else's."""
    return UploadGone(
        "that restoration is not known, or its photo was not kept",
        hint="send the photo again; with keep_image=true it stays as long as the result does",
    )


def _find_kind(root: type[ServiceError], code: str) -> type[ServiceError] | None:
    if root.code == code:
        return root
    return next((found for child in root.__subclasses__() if (found := _find_kind(child, code))), None)
