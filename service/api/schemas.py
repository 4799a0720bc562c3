"""The JSON this service speaks, as models: what the documentation shows is what the code sends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from service.core.manifest import Manifest
from service.core.notices import report_path, result_path
from service.core.options import option_schemas
from service.core.settings import Settings
from service.core.types import FaceStatus, OutputFormat, Report

_PROBLEM_EXAMPLE: JsonDict = {
    "type": "/problems/no_face_found",
    "title": "No face was found",
    "status": 422,
    "detail": "the detector saw none",
    "instance": "urn:uuid:6f1c1b0e-4f0a-4b57-9d8e-0d2f6f7c9a11",
    "code": "no_face_found",
    "hint": "lower det_threshold or min_face_px, or send faces=any to allow a photo without one",
    "retryable": False,
}


class Schema(BaseModel):
    """What all of them share."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    @classmethod
    def like(cls, source: object, **others: object) -> Self:
        """Describe the service's own: members of the same names are its attributes, unless they are among `others`."""
        same = {name: getattr(source, name) for name in cls.model_fields if hasattr(source, name)}
        return cls.model_validate({**same, **others})


class FaceSchema(Schema):
    """What the service did with one detected face."""

    index: int = Field(description="Faces are ordered by the area of their box, largest first.")
    box: tuple[float, float, float, float] = Field(description="Left, top, right, bottom, in pixels of the photo.")
    landmarks_5: tuple[tuple[float, float], ...] | None = Field(
        description="x, y of left eye, right eye, nose tip, left and right mouth corner; null for an aligned photo."
    )
    score: float | None = Field(description="Detector confidence, 0 to 1; null for an aligned photo.")
    status: FaceStatus
    reason: str | None = Field(
        description="Why it was skipped: `below_min_face_px`, `not_selected`, `over_max_faces`, `degenerate_landmarks` "
        "or `unreliable`: the networks went astray with it."
    )
    ind_rmse: float | None = Field(
        description="RMSE between the face, blended as asked for, and its posterior mean, on [0, 1] pixels; higher "
        "means less certain."
    )
    fidelity: float | None = Field(
        description="Its blend: as asked for, or the bundle's default and more where it was hardly degraded; "
        "null if it was skipped."
    )


class UrlsSchema(Schema):
    """Where to go from here, relative to the service."""

    report: str = Field(description="What the service did, as JSON.")
    result: str = Field(description="The restored image.")


class RestorationSchema(Schema):
    """What the service did with one photo."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "kq3yS0V1mJxTtq8yJ4c1WmZp",
                    "status": "succeeded",
                    "model": "latent-pmrf-s@1",
                    "width": 512,
                    "height": 512,
                    "output_format": "jpeg",
                    "seed": 7,
                    "num_steps": 10,
                    "fidelity": 0.5,
                    "faces": [
                        {
                            "index": 0,
                            "box": [178.2, 72.5, 270.9, 200.1],
                            "landmarks_5": [
                                [202.1, 116.0],
                                [244.6, 114.9],
                                [225.3, 138.8],
                                [208.7, 165.2],
                                [243.5, 164.0],
                            ],
                            "score": 0.97,
                            "status": "restored",
                            "reason": None,
                            "ind_rmse": 0.021,
                            "fidelity": 0.5,
                        }
                    ],
                    "timings_ms": {
                        "decode": 6.1,
                        "detect": 41.0,
                        "align": 1.2,
                        "paste": 3.3,
                        "encode": 7.9,
                        "total": 391.5,
                    },
                    "expires_at": "2026-11-24T13:00:00Z",
                    "urls": {
                        "report": "/v1/restorations/kq3yS0V1mJxTtq8yJ4c1WmZp",
                        "result": "/v1/restorations/kq3yS0V1mJxTtq8yJ4c1WmZp/result",
                    },
                }
            ]
        },
    )

    id: str
    status: Literal["succeeded"]
    model: str = Field(description="Bundle, `name@version`.")
    width: int = Field(description="Of the result, in pixels.")
    height: int = Field(description="Of the result, in pixels.")
    output_format: OutputFormat
    seed: int = Field(description="Send it again to get the same result.", json_schema_extra={"format": "int64"})
    num_steps: int
    fidelity: float = Field(description="The blend that was asked for, or the bundle's default; each face has its own.")
    faces: tuple[FaceSchema, ...]
    timings_ms: dict[str, float] = Field(description="Milliseconds by stage, and `total`.")
    expires_at: datetime | None = Field(description="When the result is forgotten; null if it was not kept.")
    urls: UrlsSchema | None = Field(description="Null if the result was not kept, being above the memory budget.")

    @classmethod
    def of(cls, report: Report, expires_s: float | None) -> Self:
        """Describe a finished restoration, and where it can be fetched until `expires_s` if it was kept."""
        urls = UrlsSchema(report=report_path(report.id), result=result_path(report.id))
        if expires_s is None:
            return cls.like(report, status="succeeded", expires_at=None, urls=None)
        return cls.like(report, status="succeeded", expires_at=moment(expires_s), urls=urls)


class ProblemSchema(BaseModel):
    """A problem document (RFC 9457); further members hold values for machines, such as limits."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_PROBLEM_EXAMPLE]})

    type: str = Field(description="Reference to an explanation of the code.")
    title: str
    status: int
    detail: str = Field(description="What happened this time.")
    instance: str = Field(description="Names this occurrence; the service's log knows it.")
    code: str = Field(description="Stable; decide by it.")
    hint: str | None = Field(None, description="What to do about it.")
    retryable: bool = Field(description="Whether the same request may succeed later.")


class LimitsSchema(Schema):
    """What this service accepts."""

    model: str
    input_formats: tuple[OutputFormat, ...]
    output_formats: tuple[OutputFormat, ...]
    max_upload_bytes: int
    max_image_px: int
    min_image_side_px: int
    max_output_px: int
    max_faces: int
    max_queued_photos: int = Field(description="Jobs that may wait in one line.")
    request_timeout_s: float = Field(description="Longest time a photo may take, and longest `Prefer: wait`.")
    job_timeout_s: float = Field(description="Longest time a job may wait before it is begun.")
    result_ttl_s: float
    webhooks: bool = Field(description="Whether `webhook_url` is accepted.")
    options: dict[str, dict[str, Any]] = Field(description="JSON schema of each option, with this bundle's defaults.")

    @classmethod
    def of(cls, settings: Settings, manifest: Manifest) -> Self:
        """Collect the operator's and the bundle's limits."""
        options = {name: dict(schema) for name, schema in option_schemas().items()}
        options["fidelity"]["default"] = manifest.default_fidelity
        options["num_steps"] |= {"default": manifest.default_num_steps, "maximum": manifest.max_num_steps}
        options["max_faces"]["maximum"] = settings.max_faces
        return cls.like(
            settings,
            model=f"{manifest.name}@{manifest.version}",
            input_formats=tuple(OutputFormat),
            output_formats=tuple(OutputFormat),
            webhooks=settings.webhook_secret is not None,
            options=options,
        )


class ReadinessSchema(Schema):
    """Whether photos can be restored now."""

    ready: bool
    reasons: list[str] = Field(description="Why not; empty when ready.")


class LivenessSchema(Schema):
    """The process answers."""

    live: bool


class ProblemCodeSchema(Schema):
    """What a problem code means."""

    code: str
    title: str
    status: int
    retryable: bool
    meaning: str


def moment(unix_s: float) -> datetime:
    """A time as clients see it, in whole seconds."""
    return datetime.fromtimestamp(round(unix_s), UTC)
