"""The loops of one process: who takes work from a queue, by name, each for as long as the process or until told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from service.composition.ending import Ending

Run = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Works until the event is set and what it has begun is finished; cancelled, it hands back what it has."""

_FAREWELL_S = 2.0  # for handing back, when the time for finishing is over; leases end by themselves


async def part_with(close: Callable[[], Awaitable[None]]) -> None:
    """Close the way to a server, which may hang: then it is not waited for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            await close()


class Loops:
    """Starts and ends loops.

    Args:
        ending: Says how long a loop that was told to stop may go on.
    """

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """All of them."""
        return set(self._tasks.values())

    @contextlib.asynccontextmanager
    async def running(self, name: str, run: Run) -> AsyncIterator[None]:
        """A loop for the duration of the block, unless it is ended before."""
        stop = self._stops[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(run(stop), name=name)
        try:
            yield
        finally:
            self._ending.begin()
            await self.end(name)

    async def end(self, name: str) -> None:
        """Tell a loop to stop, wait as long as it may go on, then let it hand back what it has."""
        task = self._tasks[name]
        self._stops[name].set()
        await self._ending.allow(task)
        for _ in range(2):  # who is not done with handing back after a while is not waited for
            task.cancel()
            await asyncio.wait({task}, timeout=_FAREWELL_S)
        if task.done():
            await asyncio.gather(task, return_exceptions=True)  # its error is told by `failures`

    def fallen(self) -> list[str]:
        """Names of the loops that have ended though nobody told them to."""
        return [name for name, task in self._tasks.items() if task.done() and not self._stops[name].is_set()]

    def failures(self) -> Mapping[str, BaseException]:
        """The errors that ended loops."""
        ended = {name: task for name, task in self._tasks.items() if task.done() and not task.cancelled()}
        return {name: error for name, task in ended.items() if (error := task.exception()) is not None}
