"""Memory that work takes and gives back: what does not fit in waits, in the order in which it came."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable

from service.core.tracing import span_in_trace


class Room:
    """A number of bytes; used within one event loop.

    Who comes later does not go first, though he may need less: large work is let in at some time. Work that needs more
    than there is, is let in alone.

    Args:
        max_bytes: All that may be held at once, but for work that is alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def held(self, size_bytes: int) -> AsyncIterator[Callable[[int], None]]:
        """Hold bytes for the duration of the block; they are waited for.

        The value changes how many, when more is known of the work: mostly to less, and more is not waited for.
        """
        await self._take(size_bytes)

        def become(other_bytes: int) -> None:
            nonlocal size_bytes
            self._give_back(size_bytes - other_bytes)
            size_bytes = other_bytes

        try:
            yield become
        finally:
            become(0)

    def _give_back(self, size_bytes: int) -> None:
        """Let go of bytes, and let in who waits for them."""
        self._held_bytes -= size_bytes
        self._let_in()

    async def _take(self, size_bytes: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size_bytes, turn))
        self._let_in()
        if turn.done():
            return
        try:
            with span_in_trace("memory"):
                await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._let_in()
            else:  # it was let in, and ended before it knew
                self._give_back(size_bytes)
            raise

    def _let_in(self) -> None:
        while self._line:
            size_bytes, turn = self._line[0]
            if not turn.cancelled():
                if self._held_bytes and self._held_bytes + size_bytes > self._max_bytes:
                    return
                self._held_bytes += size_bytes
                turn.set_result(None)
            self._line.popleft()
