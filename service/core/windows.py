"""What streams of photos may hold: shares of one room, so that no reader is in others' way.

room -> window: enter ... turn ... finish -> leave
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from service.core.shares import Places


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
        self._streams = Places(max_photos, "streams", hint="send many photos through each stream")

    def photos_of(self, window: Window) -> int:
        """A stream's share of the photos."""
        return self.max_photos // self._sharers(window)

    def turns_of(self, window: Window) -> int:
        """Its share of the photos that are restored at once."""
        return max(1, self._at_once // self._sharers(window))

    def bytes_of(self, window: Window) -> int:
        """Its share of the bytes."""
        return self._max_bytes // self._sharers(window)

    @property
    def full_of_results(self) -> bool:
        """Whether results that are not read have all the bytes there are."""
        return sum(window.result_bytes for window in self.windows) >= self._max_bytes

    def check(self, owner: str = "") -> None:
        """See whether there is room for a further stream.

        Args:
            owner: Who has half of the streams at most, so that he shuts out nobody else; "" may have all.

        Raises:
            QueueFull: There are as many as there may be photos, or too many of his.
        """
        self._streams.check(owner)

    @contextlib.contextmanager
    def window(self, owner: str = "") -> Iterator[Window]:
        """A share of the room for the duration of the block.

        Args:
            owner: As of `check`.

        Raises:
            QueueFull: There are as many streams as there may be photos, or too many of his.
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

    def _sharers(self, window: Window) -> int:
        """How many share the room: streams that have photos, and the one that asks."""
        return sum(other is window or other.photos > 0 for other in self.windows) or 1


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
        self._unused_since_s = asyncio.get_running_loop().time()

    @property
    def size(self) -> int:
        """Photos that may be without an answer now."""
        share = self._room.photos_of(self)
        return share if self._wanted is None else min(share, self._wanted)

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
        while self.photos and (self.photos >= self.size or self.held_bytes >= self._room.bytes_of(self)):
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
            while self._at_work >= self._room.turns_of(self) or self._must_be_read:
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
    def _must_be_read(self) -> bool:
        return self.result_bytes >= self._room.bytes_of(self) or self._room.full_of_results

    async def _change(self) -> None:
        self.changed.clear()
        await self.changed.wait()
