"""Photos of a caller in, at most a window of them out at a time; what got no answer is given out again.

The source is read no further than the window allows, whatever it holds: that bounds the memory of a batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from pathlib import Path

from service.client.errors import RestorationError
from service.client.results import Photo
from service.client.retry import Retry

PhotoSource = Iterable[Photo | Path | str] | AsyncIterable[Photo | Path | str]
_OWN_FAULT_ATTEMPTS = 3
"""Attempts where the service does not say when to come back: then the photo itself may be what fails."""


class Supply:
    """Photos that are to be sent, and those that are under way.

    Args:
        photos: What is to be restored; a plain iterable is read in a thread, because it may block.
        window: Photos that may be unanswered at once, as the caller wants it.
        policy: How often a photo is sent again that the service could not restore this time.

    Attributes:
        wanted: The caller's window.
        window: What of it the service grants just now.

    Raises:
        ValueError: The window has no room for a photo.
    """

    def __init__(self, photos: PhotoSource, window: int, policy: Retry) -> None:
        if window < 1:
            raise ValueError(f"window={window}: at least one photo must have room in it")
        self.wanted = window
        self.window = window
        self._source = _pulled(photos)
        self._policy = policy
        self._unanswered: dict[str, Photo] = {}
        self._failures: dict[str, int] = {}
        self._ready: deque[str] = deque()  # to be sent again now
        self._waiting: dict[str, float] = {}  # to be sent again from this time on
        self._coming: asyncio.Future[Photo | None] | None = None
        self._exhausted = False
        self._kept = 0  # answers that the caller has not taken
        self._changed = asyncio.Event()

    @property
    def finished(self) -> bool:
        """Whether every photo is answered."""
        return self._exhausted and not self._unanswered

    @property
    def unanswered(self) -> int:
        """Photos that were taken from the source and have no answer yet."""
        return len(self._unanswered)

    async def wait(self) -> None:
        """Wait until there is a photo to send, or every photo is answered.

        Raises:
            ValueError: As of `next`.
        """
        photo = await self.next()
        if photo is not None:
            self._ready.appendleft(photo.client_id)

    async def next(self) -> Photo | None:
        """The next photo to send, once there is room for it; None when every photo is answered.

        It may be cancelled: no photo is lost by that.

        Raises:
            ValueError: A photo has the name of one that is under way.
        """
        clock = asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            now_s = clock()
            for client_id in [name for name, due_s in self._waiting.items() if due_s <= now_s]:
                del self._waiting[client_id]
                self._ready.append(client_id)
            if self._ready:
                return self._unanswered[self._ready.popleft()]
            if self._coming is not None and self._coming.done():
                photo, self._coming = self._coming.result(), None
                if photo is not None:
                    if photo.client_id in self._unanswered:
                        raise ValueError(f"two photos under way are named {photo.client_id!r}")
                    self._unanswered[photo.client_id] = photo
                    return photo
                self._exhausted = True
            if self.finished:
                return None
            if self._coming is None and not self._exhausted and len(self._unanswered) + self._kept < self.window:
                self._coming = asyncio.ensure_future(anext(self._source, None))
            await self._change(min(self._waiting.values(), default=None))

    def answered(self, client_id: str) -> bool:
        """Note that a photo is done with; False if it is none of those under way."""
        known = self._unanswered.pop(client_id, None) is not None
        self._failures.pop(client_id, None)
        self._changed.set()
        return known

    def kept(self) -> None:
        """Note that an answer waits for the caller, in a place of the window."""
        self._kept += 1

    def taken(self) -> None:
        """Note that he has taken one."""
        self._kept -= 1
        self._changed.set()

    def failed(self, client_id: str, error: RestorationError) -> bool:
        """Note a failure; True if the photo will be given out again, False if it is to be told."""
        if client_id not in self._unanswered:
            return False
        failures = self._failures[client_id] = self._failures.get(client_id, 0) + 1
        wait_s = self._policy.wait_s(failures, error)
        if wait_s is None or (error.retry_after_s is None and failures >= _OWN_FAULT_ATTEMPTS):
            self.answered(client_id)
            return False
        self._waiting[client_id] = asyncio.get_running_loop().time() + wait_s
        self._changed.set()
        return True

    def lost(self) -> None:
        """Note that the way to the service is gone: everything unanswered is given out again, in the old order."""
        self._ready = deque(name for name in self._unanswered if name not in self._waiting)
        self._changed.set()

    async def close(self) -> None:
        """Let go of the source."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        await self._source.aclose()

    async def _change(self, until_s: float | None) -> None:
        """Wait until something may have changed."""
        loop = asyncio.get_running_loop()
        changed = asyncio.ensure_future(self._changed.wait())
        awaited: set[asyncio.Future[Photo | None] | asyncio.Task[bool]] = {changed}
        if self._coming is not None:
            awaited.add(self._coming)
        timeout_s = None if until_s is None else max(0.0, until_s - loop.time())
        try:
            await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()


async def _pulled(photos: PhotoSource) -> AsyncGenerator[Photo, None]:
    if isinstance(photos, AsyncIterable):
        async for photo in photos:
            yield Photo.of(photo)
        return
    end = object()
    iterator = iter(photos)
    while (pulled := await asyncio.to_thread(next, iterator, end)) is not end:
        yield Photo.of(pulled)  # type: ignore[arg-type] # the end is none of them
