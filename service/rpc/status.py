"""Errors in, statuses and problems of gRPC out: the one place that knows which error is which status.

Every class of `service.core.errors` has its own line here; a contract test fails when one is missing. Details follow
google.rpc: ErrorInfo with our code, RetryInfo where it is known when to come back, BadRequest for an option.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from service.core import errors
from service.core.errors import ServiceError
from service.core.tracing import correlation_headers, told_with_problems
from service.rpc import restoration_pb2 as pb

DOMAIN = "latent-pmrf"
_MAX_DETAIL_CHARS = 1000  # statuses travel as headers, which are bounded
_NANOS = 1_000_000_000

CODES: Mapping[type[ServiceError], grpc.StatusCode] = {
    errors.ServiceError: grpc.StatusCode.INTERNAL,
    errors.InputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.EmptyUpload: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UploadTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedFormat: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CorruptImage: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ImageTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ImageTooSmall: grpc.StatusCode.INVALID_ARGUMENT,
    errors.AnimatedImage: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NoFaceFound: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooManyFaces: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidOption: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MalformedRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedMediaType: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotAcceptable: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotFinished: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UploadGone: grpc.StatusCode.NOT_FOUND,
    errors.IdempotencyConflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.DependencyUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.HungUp: grpc.StatusCode.CANCELLED,
    errors.ManifestMismatch: grpc.StatusCode.INTERNAL,
    errors.InferenceFailed: grpc.StatusCode.INTERNAL,
    errors.Abandoned: grpc.StatusCode.INTERNAL,
}


def code_of(error: ServiceError) -> grpc.StatusCode:
    """Status code of an error.

    Raises:
        KeyError: The class has no line in `CODES`.
    """
    return CODES[type(error)]


def status_of(error: ServiceError) -> Status:
    """The status that ends a call, with its details."""
    metadata = {"code": error.code, "title": error.title, "retryable": str(error.retryable).lower()}
    if error.hint:
        metadata["hint"] = error.hint[:_MAX_DETAIL_CHARS]
    for name, value in {**_extra(error), **told_with_problems()}.items():
        metadata.setdefault(name, value)
    details: list[Message] = [ErrorInfo(reason=error.code.upper(), domain=DOMAIN, metadata=metadata)]
    wait = _retry_after(error)
    if wait is not None:
        details.append(RetryInfo(retry_delay=wait))
    if isinstance(error, errors.InvalidOption) and "option" in error.extra:
        violation = BadRequest.FieldViolation(field=f"options.{error.extra['option']}", description=error.detail)
        details.append(BadRequest(field_violations=[violation]))
    status = Status(code=_number(code_of(error)), message=error.detail[:_MAX_DETAIL_CHARS])
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ServiceError) -> NoReturn:
    """End a call by an error; returns when its caller has read what was written before.

    Raises:
        AbortError: He has; the library expects it.
        CancelledError: He went away before he heard of it.
    """
    status = rpc_status.to_status(status_of(error))
    told = (*(status.trailing_metadata or ()), *correlation_headers().items())
    try:
        await context.abort(status.code, status.details, told)
    except grpc.aio.InternalError as gone:  # the library would log it as a failure
        raise asyncio.CancelledError from gone


def undecodable() -> ServiceError:
    """What a message is that cannot be read."""
    return errors.MalformedRequest("the request is no message of this call", hint="see restoration.proto")


def problem_of(error: ServiceError) -> pb.Problem:
    """An error that does not end the call."""
    return pb.Problem(
        code=error.code,
        title=error.title,
        detail=error.detail[:_MAX_DETAIL_CHARS],
        hint=error.hint,
        retryable=error.retryable,
        retry_after=_retry_after(error),
        status=_number(code_of(error)),
        metadata=_extra(error),
    )


def _number(code: grpc.StatusCode) -> int:
    return int(code.value[0])


def _retry_after(error: ServiceError) -> Duration | None:
    if (wait_s := error.retry_after_s) is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(wait_s * _NANOS))
    return duration


def _extra(error: ServiceError) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in error.extra.items()}
