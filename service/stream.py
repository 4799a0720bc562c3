"""Many photos of one caller in, outcomes out as they are ready; what is in between stays small, however slow he is.

    open -> receive -> start -> gateway -> PhotoEnded ... read by the caller: only now there is room for another one

A stream holds at most a window of photos that are not answered. It takes no further photo in while photos and results
have its share of the bytes, and begins with none while results alone have. All are shares of what the streams of a
process may do together: with each stream that comes the others' shares get smaller. A stream without any photo may
always open one, so nothing stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from service.access.accounts import Accounts
from service.access.caller import Caller
from service.core.errors import Cancelled, MalformedRequest, QueueFull, ServiceError, defect
from service.core.jobs import PhotoJob, Progress
from service.core.tracing import LANE, consuming, told_with_problems
from service.core.types import Lane, Restoration, RestoreOptions, Upload
from service.gateway import Gateway, new_job

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PhotoMoved:
    """A photo is on its way."""

    client_id: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class PhotoEnded:
    """A photo is restored, or will not be."""

    client_id: str
    outcome: Restoration | ServiceError


class StreamRoom:
    """What all streams of a process may hold; used within one event loop.

    Args:
        at_once: Photos of streams restored at once. The rest of the gateway's places is for those who send one photo.
        max_photos: Photos that are not answered.
        max_bytes: Memory for photos and results.
    """

    def __init__(self, *, at_once: int, max_photos: int, max_bytes: int) -> None:
        if min(at_once, max_photos, max_bytes) < 1:
            raise ValueError("at_once, max_photos and max_bytes must be at least 1")
        self.turns = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self.max_photos = max_photos
        self._max_bytes = max_bytes
        self.windows: set[Window] = set()

    @property
    def photos_each(self) -> int:
        """A stream's share of the photos."""
        return self.max_photos // max(1, len(self.windows))

    @property
    def turns_each(self) -> int:
        """A stream's share of the photos that are restored at once."""
        return max(1, self._at_once // max(1, len(self.windows)))

    @property
    def bytes_each(self) -> int:
        """A stream's share of the bytes."""
        return self._max_bytes // max(1, len(self.windows))

    def check(self) -> None:
        """See whether there is room for a further stream.

        Raises:
            QueueFull: There are as many as there may be photos.
        """
        if len(self.windows) >= self.max_photos:
            raise QueueFull(f"{len(self.windows)} streams are open", hint="send many photos through each stream")

    @contextlib.contextmanager
    def window(self) -> Iterator[Window]:
        """A share of the room for the duration of the block.

        Raises:
            QueueFull: There are as many streams as there may be photos.
        """
        self.check()
        window = Window(self)
        self.windows.add(window)
        try:
            yield window
        finally:
            self.windows.discard(window)
            for other in self.windows:
                other.changed.set()


class Window:
    """How much of a stream may be without an answer.

    Args:
        room: What it is a share of.
    """

    def __init__(self, room: StreamRoom) -> None:
        self._room = room
        self._wanted: int | None = None
        self.changed = asyncio.Event()
        self.photos = 0
        self._at_work = 0
        self.upload_bytes = 0
        self.result_bytes = 0

    @property
    def size(self) -> int:
        """Photos that may be without an answer now."""
        each = self._room.photos_each
        return each if self._wanted is None else min(each, self._wanted)

    def narrow(self, wanted: int) -> None:
        """Let no more than `wanted` photos be without an answer.

        Raises:
            ValueError: That is none at all.
        """
        if wanted < 1:
            raise ValueError("wanted must be at least 1")
        self._wanted = wanted

    async def enter(self) -> None:
        """Take a photo in, as soon as there is room."""
        while self.photos and (self.photos >= self.size or self.held_bytes >= self._room.bytes_each):
            await self._change()
        self.photos += 1

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be among the photos that are worked on for the duration of the block.

        No stream has more than its share of the turns, or of the line for them, while others want some. A photo may
        become a result of many times its size: it does not begin while the caller leaves results unread.
        """
        while self._at_work >= self._room.turns_each or self.result_bytes >= self._room.bytes_each:
            await self._change()
        self._at_work += 1
        try:
            async with self._room.turns:
                yield
        finally:
            self._at_work -= 1
            self.changed.set()

    @property
    def held_bytes(self) -> int:
        """Memory of photos and results."""
        return self.upload_bytes + self.result_bytes

    def receive(self, more_bytes: int) -> None:
        """Count bytes of a photo."""
        self.upload_bytes += more_bytes

    def finish(self, upload_bytes: int, result_bytes: int) -> None:
        """Let a photo's result take its place."""
        self.upload_bytes -= upload_bytes
        self.result_bytes += result_bytes
        self.changed.set()

    def leave(self, result_bytes: int) -> None:
        """Let a photo go that is answered."""
        self.result_bytes -= result_bytes
        self.photos -= 1
        self.changed.set()

    async def _change(self) -> None:
        self.changed.clear()
        await self.changed.wait()


@dataclass(slots=True, eq=False)
class _Photo:
    """A photo without an answer.

    Attributes:
        client_id: The caller's name for it.
        upload_bytes: Bytes of it that are held.
        work: The gateway at work on it, once it is complete.
        withdrawn: The caller does not want it any more.
    """

    client_id: str
    upload_bytes: int = 0
    work: asyncio.Task[Restoration | ServiceError] | None = None
    withdrawn: bool = False


class PhotoStream:
    """The photos of one caller. A context manager: what is not finished at its end is withdrawn.

    Args:
        gateway: Restores them.
        window: How many at once.
        caller: Who he is.
        accounts: What he may use.
        until_s: Unix time after which the caller waits for none of them, or None.
    """

    def __init__(
        self, gateway: Gateway, window: Window, caller: Caller, accounts: Accounts, *, until_s: float | None = None
    ) -> None:
        self._gateway = gateway
        self._window = window
        self._caller = caller
        self._accounts = accounts
        self._until_s = until_s
        self._photos: dict[str, _Photo] = {}
        self._ended: deque[PhotoEnded] = deque()
        self._moved: dict[str, Progress] = {}
        self._news = asyncio.Event()
        self._closed = False
        self._error: Exception | None = None
        self._tells_progress = False

    async def __aenter__(self) -> Self:
        """Begin without a photo."""
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Withdraw what is not finished."""
        working = [photo.work for photo in self._photos.values() if photo.work is not None]
        for work in working:
            work.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    def tell_progress(self) -> None:
        """Let `events` tell how far photos are, too."""
        self._tells_progress = True

    async def open(self, client_id: str) -> None:
        """Take a photo in, as soon as there is room for it; its bytes and options may follow later.

        Raises:
            MalformedRequest: A photo of this name has no answer yet.
        """
        if client_id in self._photos:
            raise MalformedRequest(
                f"client_id {client_id[:80]!r} belongs to a photo that is not answered yet", hint="use each name once"
            )
        await self._window.enter()
        self._photos[client_id] = _Photo(client_id)

    def receive(self, client_id: str, more_bytes: int) -> None:
        """Count bytes of a photo that have arrived."""
        self._photos[client_id].upload_bytes += more_bytes
        self._window.receive(more_bytes)

    def start(self, client_id: str, upload: Upload, options: RestoreOptions) -> None:
        """Begin with a photo that is complete."""
        photo = self._photos[client_id]
        within_s = self._gateway.settings.request_timeout_s
        job = new_job(upload, options, Lane.BATCH, within_s=within_s, owner=self._caller.owner)
        photo.work = asyncio.create_task(self._work(photo, job), name="stream photo")
        photo.work.add_done_callback(partial(self._settle, photo))

    def refuse(self, client_id: str, error: ServiceError) -> None:
        """Answer a photo that was not started."""
        self._gateway.metrics.rejected(error.code)
        self._end(self._photos[client_id], error)

    def withdraw(self, client_id: str) -> bool:
        """Let a photo end that the caller does not want any more; False if it is not known, or not started yet."""
        photo = self._photos.get(client_id)
        if photo is None or photo.work is None:
            return False
        photo.withdrawn = True
        photo.work.cancel()
        return True

    def close(self) -> None:
        """No more photos come; `events` ends when all are answered. One that is not started is forgotten."""
        self._closed = True
        self._photos = {client_id: photo for client_id, photo in self._photos.items() if photo.work is not None}
        self._news.set()

    def break_off(self, error: Exception) -> None:
        """Let `events` end with an error, whatever is not answered."""
        self._error = error
        self._news.set()

    async def events(self) -> AsyncGenerator[PhotoMoved | PhotoEnded, None]:
        """What happens, as it happens; only when the next event is asked for, the one before has been answered.

        Raises:
            Exception: What `break_off` was given.
        """
        while True:
            self._news.clear()
            if self._error is not None:
                raise self._error
            if self._ended:
                ended = self._ended.popleft()
                yield ended
                self._window.leave(_size_bytes(ended.outcome))
            elif self._moved:
                client_id = next(iter(self._moved))
                yield PhotoMoved(client_id, self._moved.pop(client_id))
            elif self._closed and not self._photos:
                return
            else:
                await self._news.wait()

    async def _work(self, photo: _Photo, job: PhotoJob) -> Restoration | ServiceError:
        """One photo from its turn to its outcome."""
        gateway, tell = self._gateway, partial(self._move, photo.client_id) if self._tells_progress else None
        with consuming("stream", job.origin, {LANE: job.lane.value}, own_trace=True):
            try:
                async with self._window.turn():
                    charge = await self._accounts.charge(self._caller, partial(gateway.check, job.upload, job.options))
                    work = partial(gateway.work_off, job, tell, until_s=self._until_s)
                    restoration = await self._accounts.settled(charge, job.job_id, work, until_s=self._until_s)
                    self._finish(photo, len(restoration.data))  # counted before the turn is another photo's
                    return restoration
            except ServiceError as error:
                error.extra.update(told_with_problems())
                return error
            except Exception:
                logger.exception("unexpected error with a photo of a stream")
                return defect()

    def _settle(self, photo: _Photo, work: asyncio.Task[Restoration | ServiceError]) -> None:
        metrics = self._gateway.metrics
        if work.cancelled():
            metrics.photos("cancelled")
            if photo.withdrawn:
                self._end(photo, Cancelled("the photo was withdrawn"))
            return
        outcome = work.result()
        if isinstance(outcome, Restoration):
            metrics.photos("succeeded")
        else:
            metrics.photos("failed")
            metrics.rejected(outcome.code)
        self._end(photo, outcome)

    def _move(self, client_id: str, progress: Progress) -> None:
        if client_id in self._photos:
            self._moved[client_id] = progress
            self._news.set()

    def _finish(self, photo: _Photo, result_bytes: int) -> None:
        self._window.finish(photo.upload_bytes, result_bytes)
        photo.upload_bytes = 0

    def _end(self, photo: _Photo, outcome: Restoration | ServiceError) -> None:
        """Queue an answer; from now on the name is free, the place is not."""
        del self._photos[photo.client_id]
        self._moved.pop(photo.client_id, None)
        if isinstance(outcome, ServiceError):
            self._finish(photo, 0)
        self._ended.append(PhotoEnded(photo.client_id, outcome))
        self._news.set()


def _size_bytes(outcome: Restoration | ServiceError) -> int:
    return len(outcome.data) if isinstance(outcome, Restoration) else 0
