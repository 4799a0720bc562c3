"""What streams of photos may hold: shares of one room, so that no reader is in others' way.

room -> window: enter ... turn ... finish -> leave
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from service.core.shares import Places


class StreamRoom:
    """What all streams of a process may hold, at least 1 of each; used within one event loop.

    Args:
        at_once: Photos of streams restored at once. The rest of the gateway's places is for those who send one photo.
        max_photos: Photos that are not answered.
        max_bytes: Memory for photos and results.
    """

    def __init__(self, *, at_once: int, max_photos: int, max_bytes: int) -> None:
        self.turns = asyncio.Semaphore(at_once)
        self.at_once, self.max_photos, self.max_bytes = at_once, max_photos, max_bytes
        self.windows: set[Window] = set()
        self._streams = Places(max_photos, "streams", hint="send many photos through each stream")

    def share(self, window: Window, whole: int) -> int:
        """A stream's part of what all have; who share it are those that have photos, and the one that asks."""
        return whole // (sum(other is window or other.photos > 0 for other in self.windows) or 1)

    @property
    def full_of_results(self) -> bool:
        """Whether results that are not read have all the bytes there are."""
        return sum(window.result_bytes for window in self.windows) >= self.max_bytes

    def check(self, owner: str = "") -> None:
        """See whether there is room for a further stream of an owner's; "" stands for all who have no name.

        Raises:
            QueueFull: There are as many as there may be photos, or half of them are his.
        """
        self._streams.check(owner)

    @contextlib.contextmanager
    def window(self, owner: str = "") -> Iterator[Window]:
        """A share of the room for the duration of the block.

        Raises:
            QueueFull: As of `check`.
        """
        with self._streams.held(owner):
            window = Window(self)
            self.windows.add(window)
            try:
                yield window
            finally:
                self.windows.discard(window)
                self.tell()

    def tell(self) -> None:
        """Let every stream look again whether there is room for it."""
        for window in self.windows:
            window.changed.set()


class Window:
    """How much of a stream may be without an answer: its share of a room."""

    def __init__(self, room: StreamRoom) -> None:
        self._room = room
        self._wanted: int | None = None
        self.changed = asyncio.Event()
        self.photos = 0
        self._at_work = 0
        self.upload_bytes = 0
        self.result_bytes = 0
        self._unused_since_s = asyncio.get_running_loop().time()

    @property
    def size(self) -> int:
        """Photos that may be without an answer now."""
        share = self._room.share(self, self._room.max_photos)
        return share if self._wanted is None else min(share, self._wanted)

    def narrow(self, wanted: int) -> None:
        """Let no more than `wanted` photos, at least 1, be without an answer."""
        self._wanted = wanted

    async def enter(self) -> None:
        """Take a photo in, as soon as there is room."""
        while self.photos and (self.photos >= self.size or self.held_bytes >= self._bytes):
            await self._change()
        self.photos += 1

    async def unused(self, longest_s: float) -> None:
        """Wait until there has been no photo for so long."""
        clock = asyncio.get_running_loop().time
        left_s = longest_s
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = longest_s if self.photos else self._unused_since_s + longest_s - clock()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be among the photos that are worked on for the duration of the block.

        No stream has more than its share of the turns, or of the line for them, while others want some. A photo may
        become a result of many times its size: it does not begin while the caller leaves results unread, or all callers
        together do.
        """
        while True:
            while self._at_work >= max(1, self._room.share(self, self._room.at_once)) or self._must_be_read:
                await self._change()
            self._at_work += 1
            try:
                async with self._room.turns:
                    if not self._must_be_read:  # others may have finished while it stood in line
                        yield
                        return
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
        if not self.photos:
            self._unused_since_s = asyncio.get_running_loop().time()
        self._room.tell()

    @property
    def _bytes(self) -> int:
        return self._room.share(self, self._room.max_bytes)

    @property
    def _must_be_read(self) -> bool:
        return self.result_bytes >= self._bytes or self._room.full_of_results

    async def _change(self) -> None:
        self.changed.clear()
        await self.changed.wait()
