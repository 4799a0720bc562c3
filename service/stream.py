"""Many photos of one caller in, outcomes out as they are ready; what is in between stays small, however slow he is.

    open -> receive -> start -> gateway -> PhotoEnded ... read by the caller: only now there is room for another one

A stream holds at most a window of photos that are not answered. It takes no further photo in while photos and results
have its share of the bytes, and begins with none while results alone have, or those of all streams have all bytes. All
are shares of what the streams of a process may do together: with each stream that has a photo the others' shares get
smaller. A stream without any photo may always open one, so nothing stands still.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Self

from service.access.accounts import Accounts
from service.access.caller import Caller
from service.core.errors import Cancelled, MalformedRequest, ServiceError, defect, forget_trace
from service.core.jobs import PhotoJob, Progress
from service.core.photo_log import count_failed, note_outcome
from service.core.tasks import end_tasks
from service.core.tracing import LANE, consuming, told_with_problems
from service.core.types import Lane, Restoration, RestoreOptions, Upload
from service.core.windows import Window
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

    async def __aexit__(self, *_: object) -> None:
        """Withdraw what is not finished."""
        await end_tasks(*(photo.work for photo in self._photos.values() if photo.work is not None))

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
                size_bytes = _size_bytes(self._ended[0].outcome)
                yield self._ended.popleft()  # what was answered is not kept here
                self._window.leave(size_bytes)
            elif self._moved:
                client_id = next(iter(self._moved))
                yield PhotoMoved(client_id, self._moved.pop(client_id))
            elif self._closed and not self._photos:
                return
            else:
                await self._news.wait()

    async def _work(self, photo: _Photo, job: PhotoJob) -> Restoration | ServiceError:
        """One photo from its turn to its outcome."""
        with consuming("stream", job.origin, {LANE: job.lane.value}, own_trace=True):
            outcome = await self._outcome(photo, job)
            note_outcome(outcome)
            return outcome

    async def _outcome(self, photo: _Photo, job: PhotoJob) -> Restoration | ServiceError:
        gateway, tell = self._gateway, partial(self._move, photo.client_id) if self._tells_progress else None
        try:
            async with self._window.turn():
                charge = await self._accounts.charge(self._caller, partial(gateway.check, job.upload, job.options))
                work = partial(gateway.work_off, job, until_s=self._until_s)
                restoration = await self._accounts.settled(charge, job.job_id, work, tell, until_s=self._until_s)
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
            count_failed(metrics, outcome, self._until_s)
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
            forget_trace(outcome)
        self._ended.append(PhotoEnded(photo.client_id, outcome))
        self._news.set()


def _size_bytes(outcome: Restoration | ServiceError) -> int:
    return len(outcome.data) if isinstance(outcome, Restoration) else 0
