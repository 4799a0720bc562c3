"""OpenAPI parts that the framework cannot derive: the multipart form, image bodies and problem documents."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api import problems
from service.api.photo_form import FIELD
from service.api.schemas import ProblemSchema, RestorationSchema
from service.core.errors import ServiceError
from service.core.options import option_schemas
from service.core.types import OutputFormat

_PROBLEM = "Problem"
_BINARY = {"type": "string", "format": "binary"}

Responses = dict[int | str, dict[str, Any]]


def problem_responses(*kinds: type[ServiceError]) -> Responses:
    """Describe the errors a route may answer with, grouped by status, and any other as the default."""
    grouped: dict[int, list[type[ServiceError]]] = {}
    for kind in kinds:
        grouped.setdefault(problems.STATUS[kind], []).append(kind)
    described: Responses = {}
    for status, members in sorted(grouped.items()):
        described[status] = _problem(" / ".join(member.title for member in members), members)
        if status in (429, 503):
            described[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
            }
    described["default"] = _problem("Any other error", [ServiceError])
    return described


def _problem(description: str, members: list[type[ServiceError]]) -> dict[str, Any]:
    examples = {member.code: {"summary": member.title, "value": _example(member)} for member in members}
    schema = {"$ref": f"#/components/schemas/{_PROBLEM}"}
    return {"description": description, "content": {problems.MEDIA_TYPE: {"schema": schema, "examples": examples}}}


def _example(member: type[ServiceError]) -> dict[str, Any]:
    return {
        "type": problems.problem_type(member.code),
        "title": member.title,
        "status": problems.STATUS[member],
        "detail": (member.__doc__ or member.title).strip().splitlines()[0],
        "instance": "urn:uuid:6f1c1b0e-4f0a-4b57-9d8e-0d2f6f7c9a11",
        "code": member.code,
        "retryable": member.retryable,
    }


def image_content() -> dict[str, Any]:
    """Content of a response that is an image."""
    return {f"image/{known.value}": {"schema": _BINARY} for known in OutputFormat}


def restored_headers() -> dict[str, Any]:
    """Headers of an answer that is an image."""
    integer = {"type": "integer"}
    return {
        "Location": {"description": "The report, while it is kept.", "schema": {"type": "string"}},
        "X-Restoration-Seed": {"description": "Send it again to get the same result.", "schema": integer},
        "X-Faces-Restored": {"description": "Number of faces restored.", "schema": integer},
        "X-Faces-Skipped": {"description": "Number of faces left as they were.", "schema": integer},
        "Server-Timing": {"description": "Milliseconds by stage.", "schema": {"type": "string"}},
    }


def restore_request_body() -> dict[str, Any]:
    """The multipart form of a photo and its options."""
    photo = {**_BINARY, "description": "The photo: JPEG, PNG or WebP."}
    schema = {
        "type": "object",
        "required": [FIELD],
        "properties": {FIELD: photo, **option_schemas()},
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
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas[_PROBLEM] = ProblemSchema.model_json_schema()
        # The framework leaves nulls out of the whole document, examples included; reports have them.
        schemas[RestorationSchema.__name__]["examples"] = RestorationSchema.model_json_schema()["examples"]
        app.openapi_schema = document
    return app.openapi_schema
