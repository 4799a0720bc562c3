"""The JSON about jobs: where one is, and what a webhook gets."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Literal, Self

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from service.api import problems
from service.api.schemas import ProblemSchema, Schema, UrlsSchema, moment
from service.core.jobs import JobStatus
from service.core.notices import cancel_path, events_path, report_path, result_path
from service.core.types import FacePreview

_JOB_EXAMPLE: JsonDict = {
    "id": "kq3yS0V1mJxTtq8yJ4c1WmZp",
    "status": "running",
    "created_at": "2026-11-24T12:00:00Z",
    "expires_at": None,
    "position": None,
    "progress": {"num_faces": 3, "faces_done": 1, "num_steps": 30, "steps_done": 17},
    "error": None,
    "urls": {
        "report": "/v1/restorations/kq3yS0V1mJxTtq8yJ4c1WmZp",
        "result": "/v1/restorations/kq3yS0V1mJxTtq8yJ4c1WmZp/result",
        "events": "/v1/restorations/kq3yS0V1mJxTtq8yJ4c1WmZp/events",
        "cancel": "/v1/restorations/kq3yS0V1mJxTtq8yJ4c1WmZp/cancel",
    },
}
_NOTICE_EXAMPLE: JsonDict = {
    "type": "restoration.succeeded",
    "timestamp": "2026-11-24T12:00:07.250Z",
    "data": {
        "id": "kq3yS0V1mJxTtq8yJ4c1WmZp",
        "status": "succeeded",
        "urls": {
            "report": "/v1/restorations/kq3yS0V1mJxTtq8yJ4c1WmZp",
            "result": "/v1/restorations/kq3yS0V1mJxTtq8yJ4c1WmZp/result",
        },
    },
}


class ProgressSchema(Schema):
    """How far the faces of a photo are: step `steps_done` of `num_steps`."""

    num_faces: int = Field(description="Faces that are restored.")
    faces_done: int = Field(description="Faces that are finished.")
    num_steps: int = Field(description="Euler steps of all faces together.")
    steps_done: int = Field(description="Steps taken by all faces together.")


class JobUrlsSchema(UrlsSchema):
    """Where to go from here, relative to the service."""

    events: str = Field(description="Its states as they change, as server-sent events.")
    cancel: str = Field(description="POST here to withdraw it.")


class JobSchema(Schema):
    """A restoration that has no result: not yet, or never."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [_JOB_EXAMPLE]})

    id: str
    status: Literal["queued", "running", "failed", "cancelled"]
    created_at: datetime
    expires_at: datetime | None = Field(description="When it is forgotten; null before it has ended.")
    position: int | None = Field(description="Photos before it in its line, 0 for the next one; null unless queued.")
    progress: ProgressSchema | None = Field(description="How far its faces are; null before they are known.")
    error: ProblemSchema | None = Field(description="Why it failed; null unless it did.")
    urls: JobUrlsSchema

    @classmethod
    def of(cls, status: JobStatus) -> Self:
        """Describe a job from its status.

        Raises:
            ValueError: It has succeeded: that is a `RestorationSchema`.
        """
        job_id, failure = status.job_id, status.failure
        path = report_path(job_id)
        urls = JobUrlsSchema(
            report=path, result=result_path(job_id), events=events_path(job_id), cancel=cancel_path(job_id)
        )
        return cls.like(
            status,
            id=job_id,
            status=status.state.value,
            created_at=moment(status.created_s),
            expires_at=None if status.expires_s is None else moment(status.expires_s),
            error=None if failure is None else problems.document(failure.to_error(), path),
            urls=urls,
        )


class PreviewSchema(Schema):
    """Where a face that is being restored seems to arrive; data of an event `preview`."""

    face_index: int = Field(description="As in the report.")
    steps_done: int
    num_steps: int = Field(description="Of this face.")
    image: str = Field(description="The aligned face, a small JPEG as a `data:` URL.")
    matrix: tuple[float, float, float, float, float, float] = Field(
        description="a, b, c, d, e, f, as SVG and CSS have them: the point (u, v) of the picture, from 0 to 1, lies at "
        "(a u + c v + e, b u + d v + f) in pixels of the photo."
    )

    @classmethod
    def of(cls, preview: FacePreview) -> Self:
        """Describe a preview."""
        image = f"data:image/jpeg;base64,{base64.b64encode(preview.data).decode()}"
        return cls.like(preview, image=image)


class NoticeErrorSchema(Schema):
    """Why a restoration failed; its report says more."""

    code: str = Field(description="Stable; decide by it.")
    detail: str = Field(description="What happened.")


class NoticeUrlsSchema(Schema):
    """Where to go from here, relative to the service."""

    report: str
    result: str | None = Field(None, description="Only if it has succeeded.")


class NoticeDataSchema(Schema):
    """Which restoration has ended, and how."""

    id: str
    status: Literal["succeeded", "failed", "cancelled"]
    urls: NoticeUrlsSchema
    error: NoticeErrorSchema | None = Field(None, description="Only if it has failed.")


class NoticeSchema(Schema):
    """What a webhook gets: signed by the Standard Webhooks scheme, at least once, in any order."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [_NOTICE_EXAMPLE]})

    type: Literal["restoration.succeeded", "restoration.failed", "restoration.cancelled"]
    timestamp: datetime = Field(description="When the restoration ended.")
    data: NoticeDataSchema
