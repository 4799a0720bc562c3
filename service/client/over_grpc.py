"""The service over gRPC: `service/rpc/restoration.proto`."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import grpc
from grpc import aio

from service.client.credentials import with_key
from service.client.errors import RestorationError, ServerUnreachable
from service.client.interface import TIMEOUT_S, WINDOW
from service.client.messages import fits, job_of, limits_of, options_message, parts_of, restored_of
from service.client.options import Options
from service.client.photo_files import read_photo
from service.client.results import Answer, ImageSource, Job, Limits, Photo, Restored
from service.client.retry import Retry, retried, unless_gone, until_gone, watched
from service.client.statuses import of_status
from service.client.stream import BatchCall, OnProgress
from service.client.supply import PhotoSource, Supply
from service.rpc import restoration_pb2 as pb
from service.rpc.restoration_pb2_grpc import RestorationServiceStub

if TYPE_CHECKING:  # the generated types know it, the generated code does not
    from service.rpc.restoration_pb2_grpc import RestorationServiceAsyncStub

T = TypeVar("T")
RequestT = TypeVar("RequestT")
_TOO_LARGE = {"upload_too_large", "resource_exhausted"}  # the latter: a message, as the library tells it
_ONCE = Retry(attempts=1)
_OPENING_S = 30.0  # for the question before a stream; a service that takes longer is not there
_CHANNEL = (
    ("grpc.max_receive_message_length", -1),  # the operator of the service sets the size
    ("grpc.max_send_message_length", -1),  # we keep to what it tells
    ("grpc.enable_retries", 0),  # ours know what may be repeated, and when the service wants to be asked again
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a service that is back is found soon
    ("grpc.keepalive_time_ms", 60_000),  # a machine that has vanished says nothing more
    ("grpc.keepalive_timeout_ms", 20_000),
)


class AsyncGrpcClient:
    """See `AsyncRestorationClient`. A context manager.

    Args:
        address: Where the service is, such as `127.0.0.1:50051`.
        timeout_s: Longest time of a call with all its attempts.
        retry: When to try again.
        api_key: Key of the service, where it asks for one; None: that of `LATENT_PMRF_API_KEY`, if there is one.
        headers: Sent with every call, such as an `authorization` that a proxy asks for.
        credentials: TLS (`grpc.ssl_channel_credentials()`), or None for a connection in the clear.

    Raises:
        ValueError: The key, or a header, can be none.
    """

    def __init__(  # noqa: PLR0913 - what a connection is made of
        self,
        address: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._retry = retry or Retry()
        self._metadata = tuple(with_key(headers, api_key).items())
        self._credentials = credentials
        self._connected: tuple[aio.Channel, RestorationServiceAsyncStub] | None = None
        self._closed = False
        self._accepted: pb.GetLimitsResponse | None = None

    async def __aenter__(self) -> Self:
        """Nothing is connected before the first call."""
        return self

    async def __aexit__(self, *_ended: object) -> None:
        """Let go of the connection."""
        await self.close()

    async def close(self) -> None:
        """Let go of the connection."""
        self._closed = True
        if self._connected is not None:
            channel, self._connected = self._connected[0], None
            await channel.close()

    async def restore(
        self, image: ImageSource, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Restored:
        """Restore one photo; one above the message limit travels in parts, by a stream of its own."""
        wanted = options_message(options)
        kept_id = ""  # of what is restored, and has to be fetched

        async def fetch(left_s: float) -> Restored:
            return await self._result(kept_id, left_s)

        async def attempt(left_s: float) -> Restored:
            nonlocal kept_id
            kept = await unless_gone(_translated(fetch, left_s)(left_s)) if kept_id else None
            if kept is not None:
                return kept
            accepted = await self._limits(left_s)
            data = await read_photo(image, accepted.max_upload_bytes)
            if not fits(len(data), accepted.max_message_bytes):
                return await self._restore_in_parts(data, wanted)
            request = pb.RestoreRequest(image=data, options=wanted)
            response = await self._stub.Restore(request, timeout=left_s, metadata=self._metadata)
            if response.image:
                return restored_of(response.image, response.report)
            kept_id = response.report.id
            return await fetch(left_s)

        return await self._retried(attempt, timeout_s)

    async def restore_batch(
        self,
        photos: PhotoSource,
        *,
        window: int = WINDOW,
        on_progress: OnProgress | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Answer, None]:
        """Restore any number of photos by one stream; see `AsyncRestorationClient`.

        Args:
            photos: Photos, or paths, which name themselves.
            window: Photos that may be unanswered at once; the service's own window if that is smaller.
            on_progress: Told how far photos are, by their names.
            **options: For photos without options of their own.
        """
        supply = Supply(photos, window, self._retry)
        batch = self._batch(options_message(options), self._retry, on_progress)
        try:
            async with contextlib.aclosing(batch.answers(supply)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            await supply.close()

    async def submit(
        self,
        image: ImageSource,
        *,
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Queue a photo as a job; see `AsyncRestorationClient`."""
        first = pb.SubmitRequest(
            options=options_message(options),
            idempotency_key=idempotency_key or uuid.uuid4().hex,
            webhook_url=webhook_url or "",
        )

        async def attempt(left_s: float) -> Job:
            accepted = await self._limits(left_s)
            data = await read_photo(image, accepted.max_upload_bytes)
            messages = _submission(first, data, accepted.max_message_bytes)
            return job_of((await self._stub.Submit(messages, timeout=left_s, metadata=self._metadata)).job)

        return await self._retried(attempt, timeout_s)

    async def get(self, job_id: str) -> Job:
        """Where a job is."""
        return job_of((await self._ask(self._stub.Get, pb.GetRequest(id=job_id))).job)

    def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Where a job is, until it has ended; see `AsyncRestorationClient`."""
        return watched(lambda: self._states(job_id), self._retry)

    async def result(self, job_id: str) -> Restored:
        """The image of a job that has succeeded."""
        return await self._retried(lambda left_s: self._result(job_id, left_s))

    async def cancel(self, job_id: str) -> Job:
        """Withdraw a job."""
        return job_of((await self._ask(self._stub.Cancel, pb.CancelRequest(id=job_id))).job)

    async def delete(self, job_id: str) -> None:
        """Withdraw a job and forget everything of it."""

        async def attempt(left_s: float) -> None:
            await self._stub.Delete(pb.DeleteRequest(id=job_id), timeout=left_s, metadata=self._metadata)

        await retried(until_gone(_translated(attempt, self._timeout_s)), self._retry, self._timeout_s)

    async def limits(self) -> Limits:
        """What the service accepts."""

        async def attempt(left_s: float) -> Limits:
            self._accepted = None
            return limits_of(await self._limits(left_s))

        return await self._retried(attempt)

    @property
    def _stub(self) -> RestorationServiceAsyncStub:
        """Made in the loop that uses it.

        Raises:
            RuntimeError: The client is closed: nobody would let go of another connection.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._connected is None:
            if self._credentials is None:
                channel = aio.insecure_channel(self._address, options=_CHANNEL)
            else:
                channel = aio.secure_channel(self._address, self._credentials, options=_CHANNEL)
            self._connected = channel, RestorationServiceStub(channel)
        return self._connected[1]

    async def _ask(self, call: aio.UnaryUnaryMultiCallable[RequestT, T], request: RequestT) -> T:
        """The answer to a single message."""
        return await self._retried(lambda left_s: call(request, timeout=left_s, metadata=self._metadata))

    async def _limits(self, left_s: float) -> pb.GetLimitsResponse:
        """What the service accepts, asked for once."""
        if self._accepted is None:
            request = pb.GetLimitsRequest()
            self._accepted = await self._stub.GetLimits(request, timeout=left_s, metadata=self._metadata)
        return self._accepted

    def _batch(self, options: pb.RestoreOptions, retry: Retry, on_progress: OnProgress | None) -> BatchCall:
        async def max_upload_bytes() -> int:
            self._accepted = None
            patience_s = min(self._timeout_s, _OPENING_S)
            try:
                return (await self._limits(patience_s)).max_upload_bytes
            except aio.AioRpcError as error:
                raise of_status(error, patience_s) from error

        return BatchCall(
            open=lambda: self._stub.RestoreBatch(metadata=self._metadata),
            max_upload_bytes=max_upload_bytes,
            options=options,
            on_progress=on_progress,
            policy=retry,
        )

    async def _restore_in_parts(self, image: bytes, options: pb.RestoreOptions) -> Restored:
        supply = Supply([Photo("photo", image)], 1, _ONCE)
        async with contextlib.aclosing(self._batch(options, _ONCE, None).answers(supply)) as answers:
            async for answer in answers:
                if answer.restored is not None:
                    return answer.restored
                if answer.error is not None:
                    raise answer.error
        raise ServerUnreachable("the stream ended without an answer")

    async def _result(self, job_id: str, left_s: float) -> Restored:
        report, image = pb.Report(), bytearray()
        call = self._stub.GetResult(pb.GetResultRequest(id=job_id), timeout=left_s, metadata=self._metadata)
        async for part in call:
            if part.HasField("report"):
                report = part.report
            image += part.data
        return restored_of(bytes(image), report)

    async def _states(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The states of a job as one call tells them."""
        call = self._stub.Watch(pb.WatchRequest(id=job_id), metadata=self._metadata)
        try:
            async for response in call:
                yield job_of(response.job)
        except aio.AioRpcError as error:
            raise of_status(error) from error
        finally:
            call.cancel()

    async def _retried(self, attempt: Callable[[float], Awaitable[T]], timeout_s: float | None = None) -> T:
        longest_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return await retried(_translated(attempt, longest_s), self._retry, longest_s)
        except RestorationError as error:
            if error.code in _TOO_LARGE:
                self._accepted = None  # a service that was started anew may accept something else
            raise


def _translated(attempt: Callable[[float], Awaitable[T]], timeout_s: float) -> Callable[[float], Awaitable[T]]:
    """The same attempt, its errors the client's."""

    async def translated(left_s: float) -> T:
        try:
            return await attempt(left_s)
        except aio.AioRpcError as error:
            raise of_status(error, timeout_s) from error

    return translated


def _submission(first: pb.SubmitRequest, image: bytes, max_message_bytes: int) -> Iterator[pb.SubmitRequest]:
    """A photo as `Submit` takes it."""
    for number, (data, _) in enumerate(parts_of(image, max_message_bytes)):
        request = pb.SubmitRequest(image=data)
        if number == 0:
            request.MergeFrom(first)
        yield request
