"""The two ways to ask: HTTP, and gRPC with no more knowledge of the service than its reflection gives."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import grpc
import httpx
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from loadtest.traffic.mix import OK

GAVE_UP = "gave_up"
NO_ANSWER = "no_answer"

_SERVICE = "restoration.v1.RestorationService"
_UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=64)
_DETAILS = "grpc-status-details-bin"
_LONGEST_S = 600.0  # of one network operation; how long a whole answer may take is said for each
_MOST_BYTES = 64 * 1024 * 1024
_JPEG_MARK = b"\xff\xd8\xff"


class Sender(Protocol):
    """A way to send a photo."""

    name: str

    async def send(self, image: bytes, timeout_s: float) -> str:
        """Send one photo and take all of the answer.

        Returns:
            `ok` for a restored photo; else the service's error code, `gave_up` after the timeout, or `no_answer`.
        """

    async def close(self) -> None:
        """Close the connections."""


class HttpSender:
    """`POST /restore`, as many connections as there are requests under way.

    Args:
        url: Of the service.
        num_steps: Of each photo; None for the service's default.
    """

    name = "HTTP"

    def __init__(self, url: str, num_steps: int | None = None) -> None:
        self._client = httpx.AsyncClient(base_url=url, limits=_UNLIMITED, timeout=_LONGEST_S)
        self._options = {} if num_steps is None else {"num_steps": str(num_steps)}

    async def send(self, image: bytes, timeout_s: float) -> str:
        """See Sender."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._client.post("/restore", files={"image": ("photo", image)}, data=self._options)
        except TimeoutError:
            return GAVE_UP
        except httpx.TransportError:
            return NO_ANSWER
        if answer.status_code == httpx.codes.OK:
            return OK if answer.content.startswith(_JPEG_MARK) else "not_a_photo"
        try:
            return str(answer.json()["code"])
        except (ValueError, KeyError):
            return f"status_{answer.status_code}"

    async def close(self) -> None:
        """See Sender."""
        await self._client.aclose()


class GrpcSender:
    """`Restore`, single calls on one connection.

    Args:
        address: Of the service, HOST:PORT.
        num_steps: Of each photo; None for the service's default.
    """

    name = "gRPC"

    def __init__(self, address: str, num_steps: int | None = None) -> None:
        request, response = _messages(address)
        self._request = request
        self._options = {} if num_steps is None else {"num_steps": num_steps}
        options = [("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.max_send_message_length", _MOST_BYTES)]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._restore = self._channel.unary_unary(
            f"/{_SERVICE}/Restore",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    async def send(self, image: bytes, timeout_s: float) -> str:
        """See Sender."""
        try:
            answer = await self._restore(self._request(image=image, options=self._options), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return _code(error)
        return OK if answer.image.startswith(_JPEG_MARK) else "not_a_photo"

    async def close(self) -> None:
        """See Sender."""
        await self._channel.close()


def _messages(address: str) -> tuple[Any, Any]:
    """Classes of what `Restore` takes and gives, by the server's reflection."""
    with grpc.insecure_channel(address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(_SERVICE).FindMethodByName("Restore")
        return message_factory.GetMessageClass(method.input_type), message_factory.GetMessageClass(method.output_type)


def _code(error: grpc.aio.AioRpcError) -> str:
    packed = next((value for key, value in error.trailing_metadata() if key == _DETAILS), b"")
    for detail in status_pb2.Status.FromString(packed).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason).lower()
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return GAVE_UP
    return NO_ANSWER if error.code() is grpc.StatusCode.UNAVAILABLE else f"status_{error.code().name.lower()}"
