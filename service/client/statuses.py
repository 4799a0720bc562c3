"""Statuses that end calls of gRPC in, the client's errors out."""

from __future__ import annotations

import contextlib

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from service.client.errors import RestorationError, ServerUnreachable, deadline_passed
from service.client.messages import value_of

_DETAILS = "grpc-status-details-bin"
_DOMAIN = "latent-pmrf"
_TOO_LARGE = "Received message larger than max"  # the library's words, for which it has no status of their own
_OWN_MEMBERS = {"code", "title", "retryable", "hint"}
_CONNECTION_LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,  # not by us: who cancels a call does not read its status
    grpc.StatusCode.INTERNAL,  # a reset of the transport
    grpc.StatusCode.UNKNOWN,  # an end without a status
}


def of_status(error: aio.AioRpcError, timeout_s: float = 0.0) -> RestorationError:
    """What a status means.

    A status without our details is not the service's own word: the connection, a proxy or the library has set it. What
    these are out of for now may be there later; only a message that is too large stays so.
    """
    info, wait_s = _details(error)
    detail = error.details() or ""
    code = error.code()
    if info is not None:
        return RestorationError(
            detail,
            code=info.metadata.get("code", info.reason.lower()),
            title=info.metadata.get("title", info.reason),
            hint=info.metadata.get("hint", ""),
            retryable=info.metadata.get("retryable") == "true",
            retry_after_s=wait_s,
            values={name: value_of(text) for name, text in info.metadata.items() if name not in _OWN_MEMBERS},
        )
    if code in _CONNECTION_LOST:
        return ServerUnreachable(detail or code.name)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return deadline_passed(timeout_s)
    is_overload = code is grpc.StatusCode.RESOURCE_EXHAUSTED and not detail.startswith(_TOO_LARGE)
    title = f"The call ended with {code.name}"
    return RestorationError(detail, code=code.name.lower(), title=title, retryable=is_overload)


def _details(error: aio.AioRpcError) -> tuple[ErrorInfo | None, float | None]:
    """ErrorInfo of our domain, and seconds of RetryInfo."""
    info, wait_s = None, None
    packed = next((value for key, value in error.trailing_metadata() if key == _DETAILS), b"")
    status = Status()
    with contextlib.suppress(DecodeError):  # not of our service
        status.ParseFromString(packed if isinstance(packed, bytes) else b"")
    for detail in status.details:
        own, retry = ErrorInfo(), RetryInfo()
        if detail.Unpack(own) and own.domain == _DOMAIN:
            info = own
        elif detail.Unpack(retry):
            wait_s = retry.retry_delay.ToTimedelta().total_seconds()
    return info, wait_s
