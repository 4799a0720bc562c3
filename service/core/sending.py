"""Results on their way to those who asked for them: bounded in bytes, and in the time that a reader may stand still.

room -> fetch -> the size is known -> held ... the last part is written
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from service.core.errors import DeadlineExceeded, QueueFull
from service.core.results import StoredResult
from service.core.shares import OWNERS_SHARE, Shares

PART_BYTES = 128 * 1024
"""What a reader takes in `PART_S`, where that much is left: 4 KiB/s, as little as an upload may have."""
PART_S = 30.0
_FETCHED_AT_ONCE = 4
_LINE_S = 10.0  # neither a queue whose server hangs nor readers that are slow are a reason to wait for ever


class SendingRoom:
    """What results may hold that are being sent; used within one event loop.

    The size of a result is known when it is here, so few are fetched at once. A result that is sent alone may have any
    size: each can be fetched at some time. The results of one owner hold half of the room at most, so that his readers
    shut out nobody else; where there are no owners, all of it.

    Args:
        max_bytes: All of them together, at least 1.
        part_s: Longest time that a part may take.
        line_s: Longest wait for a turn to fetch, and for room for what is here already.
    """

    def __init__(self, max_bytes: int, *, part_s: float = PART_S, line_s: float = _LINE_S) -> None:
        self._max_bytes = max_bytes
        self._part_s = part_s
        self._line_s = line_s
        self._turns = asyncio.Semaphore(_FETCHED_AT_ONCE)
        self._results = 0
        self._bytes = Shares(OWNERS_SHARE * max_bytes)
        self._left = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """Bytes of the results that are being sent."""
        return self._bytes.total

    @contextlib.asynccontextmanager
    async def fetched(self, owner: str, fetch: Callable[[], Awaitable[StoredResult]]) -> AsyncIterator[StoredResult]:
        """A result for the duration of the block, in which it is sent.

        Args:
            owner: Whose it is; "" where nobody is asked for a key.
            fetch: Gets it; its errors are passed on.

        Raises:
            QueueFull: Others that are being sent leave no room for it.
        """
        async with contextlib.AsyncExitStack() as turn:
            await turn.enter_async_context(self._turn())
            self.check(owner)
            stored = await fetch()
            with self._hold(owner, len(stored.restoration.data)):
                await turn.aclose()
                yield stored

    def check(self, owner: str, more_bytes: int = 1) -> None:
        """See whether so much more may be sent: what would be refused whatever its size is not fetched, or worked on.

        Raises:
            QueueFull: There is no room.
        """
        refusal = self._refusal(owner, more_bytes)
        if refusal is not None:
            raise refusal

    @contextlib.asynccontextmanager
    async def held(self, owner: str, size_bytes: int) -> AsyncIterator[None]:
        """As `hold`, for the duration of the block."""
        let_go = await self.hold(owner, size_bytes)
        try:
            yield
        finally:
            let_go()

    async def hold(self, owner: str, size_bytes: int) -> Callable[[], None]:
        """Room for a result that is here already, others may first have to go; returns what lets go of it.

        Raises:
            QueueFull: Others leave no room for it, and went on doing so.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._line_s):
                while self._refusal(owner, size_bytes) is not None:
                    self._left.clear()
                    await self._left.wait()
        room = contextlib.ExitStack()
        room.enter_context(self._hold(owner, size_bytes))
        return room.close

    async def in_time(self, writing: Awaitable[None]) -> None:
        """Wait until a part is written, which ends when the reader has taken enough.

        Raises:
            DeadlineExceeded: He takes too long.
        """
        try:
            async with asyncio.timeout(self._part_s) as end:
                await writing
        except TimeoutError as error:
            if not end.expired():
                raise
            raise DeadlineExceeded(
                f"a part of the result was not read within {self._part_s:g} s", hint="read without a pause"
            ) from error

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._line_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise QueueFull("too many results are asked for at once", hint="come back later") from error
        try:
            yield
        finally:
            self._turns.release()

    @contextlib.contextmanager
    def _hold(self, owner: str, size_bytes: int) -> Iterator[None]:
        self.check(owner, size_bytes)
        self._results += 1
        try:
            with self._bytes.held(owner, size_bytes):
                yield
        finally:
            self._results -= 1
            self._left.set()

    def _refusal(self, owner: str, more_bytes: int) -> QueueFull | None:
        if not self._bytes.allow(owner, more_bytes):
            return QueueFull(
                "results of yours that are being sent leave no room for another",
                hint="read them without a pause, and few at once",
            )
        if self._results and self.held_bytes + more_bytes > self._max_bytes:
            return QueueFull(
                f"{self._results} results are being sent and leave no room for another",
                hint="come back after the time in Retry-After, and read results without a pause",
            )
        return None
