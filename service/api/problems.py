"""Errors in, problem documents out (RFC 9457): the one place that knows which error is which HTTP status.

Every class of `service.core.errors` has its own line here; a contract test fails when one is missing. What is not in
the tree is a defect of ours: the caller gets an instance id, the log gets the rest.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match, Mount

from service.api.correlation import origin_of, template_of
from service.api.head import answers_head
from service.api.safe_headers import make_safe
from service.core import errors
from service.core.errors import ServiceError
from service.core.tracing import TOLD, correlation_headers, told_with_problems, within

MEDIA_TYPE = "application/problem+json"
CLIENT_CLOSED_REQUEST = 499  # nginx's number: nobody is left to read it, but it keeps such ends apart in the metrics

CHALLENGE = 'Bearer realm="latent-pmrf"'

STATUS: Mapping[type[ServiceError], int] = {
    errors.ServiceError: 500,
    errors.InputError: 422,
    errors.EmptyUpload: 400,
    errors.UploadTooLarge: 413,
    errors.UnsupportedFormat: 415,
    errors.CorruptImage: 422,
    errors.ImageTooLarge: 413,
    errors.ImageTooSmall: 422,
    errors.AnimatedImage: 422,
    errors.NoFaceFound: 422,
    errors.TooManyFaces: 422,
    errors.InvalidOption: 422,
    errors.MalformedRequest: 400,
    errors.UnsupportedMediaType: 415,
    errors.NotAcceptable: 406,
    errors.NotFound: 404,
    errors.NotFinished: 409,
    errors.UploadGone: 404,
    errors.IdempotencyConflict: 422,
    errors.Unauthenticated: 401,
    errors.RateLimited: 429,
    errors.QuotaExceeded: 429,
    errors.QueueFull: 429,
    errors.Draining: 503,
    errors.DependencyUnavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.Cancelled: 410,
    errors.HungUp: CLIENT_CLOSED_REQUEST,
    errors.ManifestMismatch: 500,
    errors.InferenceFailed: 500,
    errors.Abandoned: 500,
}
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_FRAMEWORK_CODES = {404: "not_found", 405: "method_not_allowed"}

logger = logging.getLogger(__name__)


def status_of(error: ServiceError) -> int:
    """HTTP status of an error.

    Raises:
        KeyError: The class has no line in `STATUS`.
    """
    return STATUS[type(error)]


class ProblemResponse(JSONResponse):
    """A problem document."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - as its base
        """Bytes of a document; what a request held may be no text, and is told nevertheless."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def of_service_error(_request: Request, error: Exception) -> ProblemResponse:
    """Answer an error of the tree; those that are ours and not the caller's are logged."""
    if not isinstance(error, ServiceError):
        raise TypeError("registered for ServiceError")
    members = document(error, _new_instance())
    if members["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
        known = {"code": error.code, **({"stage": error.stage} if error.stage else {})}
        logger.error("%s %s: %s", members["instance"], error.code, error.detail, extra={"fields": known})
    headers = {}
    if (wait_s := error.retry_after_s) is not None:
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = CHALLENGE
    if isinstance(error, errors.Draining):
        headers["Connection"] = "close"  # or who keeps it would ask this process again, as long as that takes to end
    return _respond(members, headers)


def document(error: ServiceError, instance: str) -> dict[str, Any]:
    """The problem document of an error; `instance` names this occurrence of it."""
    members = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": status_of(error),
        "detail": error.detail,
        "instance": instance,
        "code": error.code,
        **({"hint": error.hint} if error.hint else {}),
        "retryable": error.retryable,
    }
    for name, value in error.extra.items():
        members.setdefault(name, value)
    return members


def of_http_exception(request: Request, error: Exception) -> ProblemResponse:
    """Answer what the framework refuses: unknown paths and methods, and whatever it may refuse one day."""
    if not isinstance(error, HTTPException):
        raise TypeError("registered for HTTPException")
    phrase = HTTPStatus(error.status_code).phrase
    other = errors.InputError if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else ServiceError
    code = _FRAMEWORK_CODES.get(error.status_code, other.code)
    members = {
        "type": f"/problems/{code}",
        "title": phrase,
        "status": error.status_code,
        "detail": f"{request.method} {request.url.path}",
        "instance": _new_instance(),
        "code": code,
        "hint": "see /docs",
        "retryable": False,
    }
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and "app" in request.scope:
        headers["Allow"] = ", ".join(_allowed_at(request))
    return _respond(members, headers)


def of_validation_error(request: Request, error: Exception) -> ProblemResponse:
    """Answer path or query values the framework refuses."""
    if not isinstance(error, RequestValidationError):
        raise TypeError("registered for RequestValidationError")
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return of_service_error(request, errors.InvalidOption(f"{where}: {first['msg']}", option=where))


def of_defect(request: Request, error: Exception) -> ProblemResponse:
    """Answer anything else without telling what it was; the instance id leads to the log."""
    instance = _new_instance()
    with within(origin_of(request.scope)):
        logger.error("%s %s %s", instance, request.method, template_of(request.scope), exc_info=error)
        error.__dict__[TOLD] = True
        detail = "the service failed; the operator finds the cause in the log under this instance"
        return _respond(document(ServiceError(detail), instance), correlation_headers())


def catalogue() -> dict[str, dict[str, Any]]:
    """Every code a client may meet: its title, status and whether trying again may help."""
    known = {
        error.code: {"title": error.title, "status": status, "retryable": error.retryable}
        for error, status in STATUS.items()
    }
    for status, code in _FRAMEWORK_CODES.items():
        known.setdefault(code, {"title": HTTPStatus(status).phrase, "status": status, "retryable": False})
    return known


def meaning(kind: type[ServiceError]) -> str:
    """What a class of errors means, in a sentence."""
    return (kind.__doc__ or kind.title).strip().splitlines()[0]


def explanation(code: str) -> str | None:
    """What a code means, from the error tree; None for an unknown code."""
    for error in STATUS:
        if error.code == code:
            return meaning(error)
    return "The path exists, but not with this method." if code == "method_not_allowed" else None


def _allowed_at(request: Request) -> list[str]:
    """Methods of a path, of all its routes: the framework tells those of the first."""
    asked = {name: value for name, value in request.scope.items() if name in ("type", "path", "root_path", "headers")}
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    allowed = {
        method
        for method in _METHODS
        if any(route.matches({**asked, "method": method})[0] is Match.FULL for route in routes)
    }
    allowed = allowed or {"GET"}  # a file's
    return sorted(allowed | ({"HEAD"} if "GET" in allowed and answers_head(request.scope["path"]) else set()))


def _new_instance() -> str:
    return uuid.uuid4().urn


def _respond(members: dict[str, Any], headers: dict[str, str]) -> ProblemResponse:
    for name, value in told_with_problems().items():
        members.setdefault(name, value)
    # Set here too: an answer to a defect leaves outside the middleware that sets them for all others.
    response = ProblemResponse(members, status_code=int(members["status"]), headers=headers)
    make_safe(response.headers)
    return response
