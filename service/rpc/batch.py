"""Messages of RestoreBatch in and out, `service.stream` in between.

    requests -> _Reader -> PhotoStream -> responses

The reader knows the order in which messages may come, and puts photos together that come in parts. It reads a photo's
first message before there is room for the photo, and no further message then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

from service.access.caller import Caller
from service.core.errors import (
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    Draining,
    MalformedRequest,
    ServiceError,
    check_upload_bytes,
)
from service.core.sending import PART_BYTES
from service.core.tasks import beside, end_tasks
from service.core.types import Restoration
from service.core.windows import Window
from service.rpc import restoration_pb2 as pb
from service.rpc.context import RpcContext
from service.rpc.messages import options_of, parts_of, progress_of, report_of, upload_of
from service.rpc.status import problem_of
from service.stream import PhotoEnded, PhotoMoved, PhotoStream

_MAX_ID_BYTES = 255


async def restore_batch(
    context: RpcContext, caller: Caller, requests: AsyncIterator[pb.RestoreBatchRequest], until_s: float | None
) -> AsyncGenerator[pb.RestoreBatchResponse, None]:
    """Serve one stream.

    Args:
        context: The parts behind it.
        caller: Whose it is.
        requests: What the caller sends.
        until_s: Unix time after which the caller does not wait, or None.

    Raises:
        MalformedRequest: The order of messages is broken.
        Unauthenticated: The caller's key is not known any more.
        QueueFull: There are too many streams.
        DeadlineExceeded: It had no photo for too long.
        Draining: The process shuts down; what was read is answered.
    """
    max_message_bytes = context.max_message_bytes
    with context.gateway.metrics.refusals_counted():
        context.room.check(caller.owner)
    with context.room.window(caller.owner) as window:
        opening = pb.BatchOpening(window=window.size, max_message_bytes=max_message_bytes)
        yield pb.RestoreBatchResponse(opening=opening)
        async with (
            PhotoStream(context.gateway, window, caller, context.access.accounts, until_s=until_s) as stream,
            beside(
                _feed(context, _Reader(context, caller, stream, window), requests, stream, window), "feed"
            ) as feeding,
            aclosing(stream.events()) as events,
        ):
            async for event in events:
                for response in _responses(event, min(PART_BYTES, max_message_bytes)):
                    yield response
                del event  # the next one may be long in coming
            await feeding


async def _feed(
    context: RpcContext,
    reader: _Reader,
    requests: AsyncIterator[pb.RestoreBatchRequest],
    stream: PhotoStream,
    window: Window,
) -> None:
    """Read until the caller has closed his side or the process drains.

    Raises:
        Draining: The latter.
        DeadlineExceeded: There was no photo for as long as one may take; the stream ends with it, too.
        Exception: What went wrong with reading; likewise.
    """
    longest_s = context.gateway.settings.request_timeout_s
    reading = asyncio.create_task(reader.read(requests), name="read")
    draining = asyncio.ensure_future(context.draining())
    unused = asyncio.create_task(window.unused(longest_s), name="unused")
    try:
        await asyncio.wait({reading, draining, unused}, return_when=asyncio.FIRST_COMPLETED)
        all_read = reading.done()
        if all_read:
            reading.result()
        elif unused.done():
            raise DeadlineExceeded(f"no photo came for {longest_s:g} s", hint="open a stream when there are photos")
    except Exception as error:
        stream.break_off(error)
        raise
    finally:
        await end_tasks(reading, draining, unused)
    stream.close()
    if not all_read:
        raise Draining("the service is shutting down and reads no further photo", hint="try another instance")


class _Reader:
    """Takes the caller's messages one by one.

    Args:
        context: The parts behind the stream.
        caller: Whose it is.
        stream: Where photos go.
        window: Narrowed if the setup says so.
    """

    def __init__(self, context: RpcContext, caller: Caller, stream: PhotoStream, window: Window) -> None:
        self._context = context
        self._caller = caller
        self._stream = stream
        self._window = window
        self._default_options = pb.RestoreOptions()
        self._begun: str | None = None  # the photo that has further parts
        self._options = pb.RestoreOptions()
        self._parts: bytearray | None = None  # None when it is refused already
        self._size_bytes = 0
        self._too_late: asyncio.TimerHandle | None = None

    async def read(self, requests: AsyncIterator[pb.RestoreBatchRequest]) -> None:
        """Read to the end.

        Raises:
            MalformedRequest: The order of messages is broken.
        """
        try:
            await self._read(requests)
        finally:
            self._stop_waiting()

    async def _read(self, requests: AsyncIterator[pb.RestoreBatchRequest]) -> None:
        is_first = True
        async for request in requests:
            match request.WhichOneof("message"):
                case "setup" if is_first:
                    self._set_up(request.setup)
                case "photo" if self._begun is None:
                    await self._begin(request.photo)
                case "part" if self._begun == request.part.client_id:
                    self._go_on(request.part.data, has_more=request.part.has_more)
                case "cancel":
                    self._withdraw(request.cancel.client_id)
                case kind:
                    raise MalformedRequest(f"a message of kind {kind!r} may not come here", hint="see RestoreBatch")
            is_first = False
        if self._begun is not None:
            raise MalformedRequest(f"the photo {self._begun[:80]!r} is not complete", hint="send its last part")

    def _set_up(self, setup: pb.BatchSetup) -> None:
        self._default_options = setup.options
        if setup.progress:
            self._stream.tell_progress()
        if setup.window:
            self._window.narrow(setup.window)

    async def _begin(self, photo: pb.BatchPhoto) -> None:
        client_id = photo.client_id
        if not 0 < len(client_id.encode()) <= _MAX_ID_BYTES:
            raise MalformedRequest(f"client_id must have 1 to {_MAX_ID_BYTES} bytes", hint="a number will do")
        self._context.access.recheck(self._caller)
        await self._stream.open(client_id)
        self._begun = client_id
        self._options = photo.options if photo.HasField("options") else self._default_options
        self._parts, self._size_bytes = bytearray(), 0
        try:
            await self._context.access.accounts.queue(self._caller)  # within the window: that is no unused stream
        except DependencyUnavailable as error:  # the others are under way, and charged
            self._refuse(client_id, error)
        if photo.has_more and self._parts is not None:
            timeout_s = self._context.gateway.settings.request_timeout_s
            late = DeadlineExceeded(f"the photo took longer than {timeout_s:g} s to arrive")
            self._too_late = asyncio.get_running_loop().call_later(timeout_s, self._refuse, client_id, late)
        self._go_on(photo.image, has_more=photo.has_more)

    def _go_on(self, data: bytes, *, has_more: bool) -> None:
        client_id = self._begun
        if client_id is None:
            raise ValueError("no photo has begun")
        if self._parts is not None:
            self._size_bytes += len(data)
            try:
                self._take(client_id, self._parts, data, has_more=has_more)
            except ServiceError as error:
                self._refuse(client_id, error)
        if not has_more:
            self._begun = self._parts = None
            self._stop_waiting()

    def _take(self, client_id: str, parts: bytearray, data: bytes, *, has_more: bool) -> None:
        check_upload_bytes(self._size_bytes, self._context.max_upload_bytes, whole=False)
        self._stream.receive(client_id, len(data))
        if has_more or parts:
            parts += data  # one by one, small parts would take many times their size
        if not has_more:
            upload = upload_of(bytes(parts) if parts else data, self._context.max_upload_bytes)
            self._stream.start(client_id, upload, options_of(self._options, self._context.gateway.option_limits))

    def _withdraw(self, client_id: str) -> None:
        if not self._stream.withdraw(client_id) and client_id == self._begun and self._parts is not None:
            self._refuse(client_id, Cancelled("the photo was withdrawn"))

    def _refuse(self, client_id: str, error: ServiceError) -> None:
        self._stream.refuse(client_id, error)
        self._parts = None
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


def _responses(event: PhotoMoved | PhotoEnded, max_message_bytes: int) -> Iterator[pb.RestoreBatchResponse]:
    client_id = event.client_id
    if isinstance(event, PhotoMoved):
        progress = pb.BatchProgress(client_id=client_id, progress=progress_of(event.progress))
        yield pb.RestoreBatchResponse(progress=progress)
    elif isinstance(event.outcome, Restoration):
        yield from _result(client_id, event.outcome, max_message_bytes)
    else:
        failure = pb.BatchFailure(client_id=client_id, error=problem_of(event.outcome))
        yield pb.RestoreBatchResponse(failure=failure)


def _result(client_id: str, restoration: Restoration, max_message_bytes: int) -> Iterator[pb.RestoreBatchResponse]:
    report, size_bytes = report_of(restoration.report, None), len(restoration.data)
    sent_bytes = 0
    for index, part in enumerate(parts_of(restoration.data, report, max_message_bytes)):
        sent_bytes += len(part)
        has_more = sent_bytes < size_bytes
        if index:
            yield pb.RestoreBatchResponse(part=pb.BatchPart(client_id=client_id, data=part, has_more=has_more))
        else:
            result = pb.BatchResult(
                client_id=client_id, image=part, report=report, has_more=has_more, size_bytes=size_bytes
            )
            yield pb.RestoreBatchResponse(result=result)
