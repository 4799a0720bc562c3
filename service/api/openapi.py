"""OpenAPI parts that the framework cannot derive: the multipart form, image bodies and problem documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api import idempotency, problems
from service.api.job_schemas import JobSchema
from service.api.photo_form import FIELD
from service.api.schemas import ProblemSchema, RestorationSchema
from service.api.submission import IMAGE_FROM, KEEP_IMAGE, PREVIEW
from service.core import errors
from service.core.errors import ServiceError
from service.core.options import option_schemas
from service.core.types import OutputFormat
from service.submission import MAX_KEY_CHARS
from service.webhooks.targets import OPTION

_PROBLEM = "Problem"
_INSTANCE = "urn:uuid:6f1c1b0e-4f0a-4b57-9d8e-0d2f6f7c9a11"
_BINARY = {"type": "string", "format": "binary"}
_INTEGER = {"type": "integer"}
_INTEGER_64 = {"type": "integer", "format": "int64"}
_TEXT = {"type": "string"}
_CORRELATION = {
    "X-Request-ID": {"description": "The request's, as in the service's logs; yours if you sent one.", "schema": _TEXT},
    "traceresponse": {"description": "Its trace (W3C Trace Context), where there is one.", "schema": _TEXT},
}

ACCESS_PROBLEMS = (errors.Unauthenticated, errors.RateLimited, errors.DependencyUnavailable)
RESTORE_PROBLEMS = (
    errors.Unauthenticated,
    errors.RateLimited,
    errors.QuotaExceeded,
    errors.EmptyUpload,
    errors.MalformedRequest,
    errors.NotAcceptable,
    errors.UploadTooLarge,
    errors.ImageTooLarge,
    errors.UnsupportedMediaType,
    errors.UnsupportedFormat,
    errors.CorruptImage,
    errors.AnimatedImage,
    errors.ImageTooSmall,
    errors.NoFaceFound,
    errors.TooManyFaces,
    errors.InvalidOption,
    errors.QueueFull,
    errors.InferenceFailed,
    errors.Draining,
    errors.DependencyUnavailable,
    errors.DeadlineExceeded,
)
JOB_PROBLEMS = (
    *(kind for kind in RESTORE_PROBLEMS if kind is not errors.NotAcceptable),
    errors.UploadGone,
    errors.IdempotencyConflict,
    errors.Cancelled,
    errors.Abandoned,
)

ENDS_OF_A_JOB = (
    errors.Cancelled,
    errors.ImageTooLarge,
    errors.CorruptImage,
    errors.NoFaceFound,
    errors.TooManyFaces,
    errors.InferenceFailed,
    errors.Abandoned,
    errors.DependencyUnavailable,
    errors.DeadlineExceeded,
)
"""What may have ended a job without a result; what is told by the photo's header is refused before there is one."""

Responses = dict[int | str, dict[str, Any]]


def problem_responses(*kinds: type[ServiceError]) -> Responses:
    """Describe the errors a route may answer with, grouped by status, and any other as the default."""
    grouped: dict[int, list[type[ServiceError]]] = {}
    for kind in kinds:
        grouped.setdefault(problems.STATUS[kind], []).append(kind)
    described: Responses = {}
    for status, members in sorted(grouped.items()):
        described[status] = _problem(" / ".join(member.title for member in members), members)
        if any(member.come_back_s is not None for member in members):
            described[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
            }
    described["default"] = _problem("Any other error", [ServiceError])
    return described


def _problem(description: str, members: list[type[ServiceError]]) -> dict[str, Any]:
    examples = {
        member.code: {"summary": member.title, "value": problems.document(member(problems.meaning(member)), _INSTANCE)}
        for member in members
    }
    schema = {"$ref": f"#/components/schemas/{_PROBLEM}"}
    return {"description": description, "content": {problems.MEDIA_TYPE: {"schema": schema, "examples": examples}}}


def image_content() -> dict[str, Any]:
    """Content of a response that is an image."""
    return {f"image/{known.value}": {"schema": _BINARY} for known in OutputFormat}


def restored_headers() -> dict[str, Any]:
    """Headers of an answer that is an image."""
    return {
        "Location": {"description": "The report, while it is kept.", "schema": _TEXT},
        "X-Restoration-Seed": {"description": "Send it again to get the same result.", "schema": _INTEGER_64},
        "X-Faces-Restored": {"description": "Number of faces restored.", "schema": _INTEGER},
        "X-Faces-Skipped": {"description": "Number of faces left as they were.", "schema": _INTEGER},
        "Server-Timing": {"description": "Milliseconds by stage.", "schema": _TEXT},
        **_CORRELATION,
    }


def job_headers(status: int) -> dict[str, Any]:
    """Headers of an answer about a job that was asked for."""
    headers: dict[str, Any] = {
        "Location": {"description": "Where the job is.", "schema": _TEXT},
        "Preference-Applied": {"description": "What was done of `Prefer`.", "schema": _TEXT},
        "Idempotent-Replayed": {"description": "`true` if the job was there already.", "schema": _TEXT},
        **_CORRELATION,
    }
    if status == HTTPStatus.ACCEPTED:
        headers["Retry-After"] = {"description": "Seconds until it is worth looking again.", "schema": _INTEGER}
    return headers


def job_parameters() -> list[dict[str, Any]]:
    """Request headers of a job."""
    prefer = "`respond-async` to be answered at once, `wait=N` to be answered after N seconds at the latest."
    key = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS}
    return [
        {"in": "header", "name": "Prefer", "schema": _TEXT, "description": prefer, "example": "respond-async"},
        {
            "in": "header",
            "name": idempotency.HEADER,
            "schema": key,
            "description": "The same key and the same request mean the same job, as long as that is known.",
            "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
        },
    ]


def event_content() -> dict[str, Any]:
    """Content of a response that is a stream of events."""
    data = json.dumps({"id": "kq3yS0V1mJxTtq8yJ4c1WmZp", "status": "queued", "position": 2}, separators=(",", ":"))
    return {"text/event-stream": {"schema": _TEXT, "example": f"event: status\nid: 1\ndata: {data}\n\n"}}


def job_request_body() -> dict[str, Any]:
    """The multipart form of a photo, its options and who is told how it ended."""
    url = {"type": "string", "format": "uri", "description": "Gets a POST when the job has ended; https only."}
    keep = "Whether the photo stays as long as the result can be fetched, so that it can be restored again."
    previews = "Whether its events show faces on their way, as small pictures; they come when there is room for them."
    earlier = "In place of `image`: id of an earlier restoration of yours that had `keep_image`; its photo is taken."
    body = restore_request_body(
        {
            OPTION: url,
            KEEP_IMAGE: {"type": "boolean", "default": False, "description": keep},
            PREVIEW: {"type": "boolean", "default": False, "description": previews},
            IMAGE_FROM: {**_TEXT, "description": earlier},
        }
    )
    schema = body["content"]["multipart/form-data"]["schema"]
    del schema["required"]
    schema["oneOf"] = [{"required": [FIELD]}, {"required": [IMAGE_FROM]}]
    return body


def restore_request_body(more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The multipart form of a photo and its options, and `more` fields."""
    photo = {**_BINARY, "description": "The photo: JPEG, PNG or WebP."}
    schema = {
        "type": "object",
        "required": [FIELD],
        "properties": {FIELD: photo, **option_schemas(), **(more or {})},
        "additionalProperties": False,
    }
    encoding = {FIELD: {"contentType": ", ".join(f"image/{known.value}" for known in OutputFormat)}}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema, "encoding": encoding}}}


def complete_openapi(app: FastAPI) -> dict[str, Any]:
    """The document of `app` with the problem schema among its components; made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            license_info=app.license_info,
            tags=app.openapi_tags,
            routes=app.routes,
            webhooks=app.webhooks.routes,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas[_PROBLEM] = ProblemSchema.model_json_schema()
        for kind in (RestorationSchema, JobSchema):
            # The framework leaves nulls out of the whole document, examples included; reports have them.
            schemas[kind.__name__]["examples"] = kind.model_json_schema()["examples"]
        app.openapi_schema = document
    return app.openapi_schema
