"""Photos in, answers in order of completion out, over RestoreBatch: one stream, and another when that is lost.

    Supply ──► sending task ──► RestoreBatch ──► receiving task ──► answers ahead ──► the caller

Answers are read as they come, for the service ends a stream that is not read. A caller who does not take them stops the
sending: photos without an answer and answers that wait for him are a window together. A photo whose answer was lost
with a stream is sent again under the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from grpc import aio

from service.client.errors import RestorationError, ServerUnreachable, unreadable, without_trace
from service.client.messages import error_of, options_message, parts_of, progress_of, restored_of
from service.client.photo_files import read_photo
from service.client.results import Answer, Photo, Progress, Restored
from service.client.retry import Retry
from service.client.statuses import of_status
from service.client.supply import Supply
from service.rpc import restoration_pb2 as pb

OnProgress = Callable[[str, Progress], None]
Call = aio.StreamStreamCall[pb.RestoreBatchRequest, pb.RestoreBatchResponse]


@dataclass(frozen=True, slots=True)
class BatchCall:
    """What every stream of a batch has in common.

    Attributes:
        open: Begins a stream.
        max_upload_bytes: Asks the service for its largest photo; a restarted one may accept something else.
        options: For photos without options of their own.
        on_progress: Told how far photos are, or None.
        policy: When a lost stream is opened again; attempts count from the last answer.
    """

    open: Callable[[], Call]
    max_upload_bytes: Callable[[], Awaitable[int]]
    options: pb.RestoreOptions
    on_progress: OnProgress | None
    policy: Retry

    async def answers(self, supply: Supply) -> AsyncGenerator[Answer, None]:
        """Send all that the supply has.

        Raises:
            RestorationError: The service refuses the stream, or stays away.
        """
        failures = 0
        while not supply.finished:
            await supply.wait()  # the service ends streams without photos
            try:
                async with contextlib.aclosing(self._one_stream(supply)) as answers:
                    async for answer in answers:
                        failures = 0
                        supply.taken()
                        yield answer
                if not supply.finished:
                    raise ServerUnreachable("the stream ended before every photo was answered")
            except RestorationError as error:
                failures += 1
                wait_s = self.policy.wait_s(failures, error)
                if wait_s is None:
                    raise
                supply.lost()
                await asyncio.sleep(wait_s)

    async def _one_stream(self, supply: Supply) -> AsyncGenerator[Answer, None]:
        """Answers until the stream ends.

        Raises:
            RestorationError: It was lost.
            Exception: Whatever the caller's source of photos has raised.
        """
        max_upload_bytes = await self.max_upload_bytes()
        call = self.open()
        stream = _Stream(call, supply, max_upload_bytes, self.on_progress)
        setup = pb.BatchSetup(options=self.options, progress=self.on_progress is not None, window=supply.wanted)
        sending = asyncio.create_task(stream.send(setup), name="send photos")
        receiving = asyncio.create_task(stream.receive(), name="receive answers")

        def tell_end(task: asyncio.Task[None]) -> None:
            if task is receiving or not (task.cancelled() or task.exception() is None):
                stream.arrived.put_nowait(None)

        sending.add_done_callback(tell_end)
        receiving.add_done_callback(tell_end)
        try:
            while (answer := await stream.arrived.get()) is not None:
                yield answer
            for task in (sending, receiving):
                if task.done():
                    task.result()
        finally:
            call.cancel()
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Stream:
    """One call of RestoreBatch."""

    call: Call
    supply: Supply
    max_upload_bytes: int
    on_progress: OnProgress | None
    names: dict[str, str] = field(default_factory=dict)  # callers' names by those for the service, where they differ
    opened: asyncio.Future[pb.BatchOpening] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    arrived: asyncio.Queue[Answer | None] = field(default_factory=asyncio.Queue)  # None: the stream has ended

    async def send(self, setup: pb.BatchSetup) -> None:
        """Send photos until every one is answered, then close this side."""
        if not await self._write(pb.RestoreBatchRequest(setup=setup)):
            return
        opening = await self.opened
        self.supply.window = min(self.supply.wanted, opening.window)
        while (photo := await self.supply.next()) is not None:
            try:
                options = _options_of(photo)
                image = await read_photo(photo.image, self.max_upload_bytes)
            except OSError as error:
                self._tell(photo.client_id, unreadable(error))
            except RestorationError as error:
                self._tell(photo.client_id, without_trace(error))
            else:
                if photo.wire_id != photo.client_id:
                    self.names[photo.wire_id] = photo.client_id
                for message in _messages_of(photo, options, image, opening.max_message_bytes):
                    if not await self._write(message):
                        return
        with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.done_writing()

    async def receive(self) -> None:
        """Read answers until the service closes the stream.

        Raises:
            RestorationError: It ended with an error.
        """
        coming = _ComingResult()
        try:
            while isinstance(message := await self.call.read(), pb.RestoreBatchResponse):
                answer = self._answer_in(message, coming)
                if answer is not None:
                    self._keep(answer)
        except aio.AioRpcError as error:
            raise of_status(error) from error

    async def _write(self, message: pb.RestoreBatchRequest) -> bool:
        """Send a message; False if the stream has ended: who receives is told why."""
        try:
            await self.call.write(message)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    def _answer_in(self, message: pb.RestoreBatchResponse, coming: _ComingResult) -> Answer | None:
        """The answer that a message completes, if it does, to a photo that is not given out again."""
        match message.WhichOneof("message"):
            case "opening":
                self.opened.set_result(message.opening)
            case "progress":
                if self.on_progress is not None:
                    told = message.progress
                    self.on_progress(self.names.get(told.client_id, told.client_id), progress_of(told.progress))
            case "failure":
                client_id, error = self._name(message.failure.client_id), error_of(message.failure.error)
                if not self.supply.failed(client_id, error):
                    return Answer(client_id, error=error)
            case "result" | "part":
                if coming.add(message):
                    client_id = self._name(coming.first.client_id)
                    if self.supply.answered(client_id):
                        return Answer(client_id, restored=coming.restored())
        return None

    def _name(self, wire_id: str) -> str:
        """The caller's name for a photo that is answered."""
        return self.names.pop(wire_id, wire_id)

    def _tell(self, client_id: str, error: RestorationError) -> None:
        """Answer a photo that is not sent."""
        self.supply.answered(client_id)
        self._keep(Answer(client_id, error=error))

    def _keep(self, answer: Answer) -> None:
        """Keep an answer until the caller takes it."""
        self.supply.kept()
        self.arrived.put_nowait(answer)


class _ComingResult:
    """A result of which some parts have arrived."""

    def __init__(self) -> None:
        self.first = pb.BatchResult()
        self._parts: list[bytes] = []

    def add(self, message: pb.RestoreBatchResponse) -> bool:
        """Take a result, its first part or its next one; True if it is complete now."""
        if message.HasField("part"):
            self._parts.append(message.part.data)
            return not message.part.has_more
        self.first, self._parts = message.result, [message.result.image]
        return not self.first.has_more

    def restored(self) -> Restored:
        """The photo, once it is complete."""
        return restored_of(b"".join(self._parts), self.first.report)


def _options_of(photo: Photo) -> pb.RestoreOptions | None:
    """The caller's choices for a photo, if it has its own.

    Raises:
        RestorationError: The stream cannot take a value; the code is the service's.
    """
    try:
        return None if photo.options is None else options_message(photo.options)
    except ValueError as error:
        raise RestorationError(str(error), code="invalid_option", title="An option is invalid") from error


def _messages_of(
    photo: Photo, options: pb.RestoreOptions | None, image: bytes, max_message_bytes: int
) -> Iterator[pb.RestoreBatchRequest]:
    """A photo as the stream takes it."""
    for number, (data, has_more) in enumerate(parts_of(image, max_message_bytes)):
        if number == 0:
            first = pb.BatchPhoto(client_id=photo.wire_id, image=data, options=options, has_more=has_more)
            yield pb.RestoreBatchRequest(photo=first)
        else:
            part = pb.BatchPart(client_id=photo.wire_id, data=data, has_more=has_more)
            yield pb.RestoreBatchRequest(part=part)
