"""What travels between the stages of an archive's pipeline: one photo, from its place to its outcome.

    Task --prepare--> Passage with faces to restore --infer--> Passage with restored faces --finish--> Ending

A photo that has failed goes through the later stages untouched, so that every task comes out as one ending.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.core.errors import ServiceError
from service.core.types import Face, FaceJob, OutputFormat, Restoration, RestoredFace


@dataclass(frozen=True, slots=True)
class Task:
    """A photo to restore. Id and seed are chosen before anything runs: a stage that runs twice does the same twice.

    Attributes:
        item_id: `Item.id`.
        source: Path of the photo in its file system.
        target: Path of the result in its file system.
        output_format: Encoding of the result.
        job_id: Id of the restoration, for its report.
        seed: Seed of the source noise.
    """

    item_id: str
    source: str
    target: str
    output_format: OutputFormat
    job_id: str
    seed: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A photo on its way.

    Attributes:
        task: What is to be done.
        data: The photo's file.
        faces: What the detector has found.
        jobs: Faces to restore.
        restored: Those that are.
        restoration: The result of a photo without a face to restore, which is finished already; or None.
        error: Why the photo has failed, or None.
    """

    task: Task
    data: bytes = b""
    faces: tuple[Face, ...] = ()
    jobs: tuple[FaceJob, ...] = ()
    restored: tuple[RestoredFace, ...] = ()
    restoration: Restoration | None = None
    error: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a task.

    Attributes:
        item_id: `Item.id`.
        result_bytes: Size of the result's file; 0 without one.
        report: Members as in HTTP's report, or None.
        error: `code`, `title`, `detail`, `hint`, `retryable`, or None.
        errno: Why no further result could be written either, or 0.
    """

    item_id: str
    result_bytes: int = 0
    report: Mapping[str, object] | None = None
    error: Mapping[str, object] | None = None
    errno: int = 0


def told(error: ServiceError) -> dict[str, object]:
    """A refusal of the pipeline, as a report has it."""
    members: dict[str, object] = {"code": error.code, "title": error.title, "detail": error.detail, "hint": error.hint}
    return {**members, "retryable": error.retryable}


def lost() -> dict[str, object]:
    """A photo of which the pipeline has told nothing: the processes that had it ended, each time."""
    detail = "the worker processes that had the photo ended"
    hint = "run the command again; if it comes back, look at Ray's logs"
    return {"code": "worker_lost", "title": "The worker was lost", "detail": detail, "hint": hint, "retryable": True}
