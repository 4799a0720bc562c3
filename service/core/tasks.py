"""Tasks that do not outlive what they were begun for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Set
from typing import Any, TypeVar

T = TypeVar("T")


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their ends; how they end does not matter."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def pause(longest_s: float, until: asyncio.Event) -> None:
    """Wait for so long, or until the event is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await until.wait()


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, T], name: str) -> AsyncIterator[asyncio.Task[T]]:
    """Work goes on for the duration of the block, or until it ends by itself."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        await end_tasks(task)


async def until_stopped(
    work: Coroutine[Any, Any, None],
    stop: asyncio.Event,
    *,
    name: str,
    grace_s: float,
    begun: Set[asyncio.Task[None]] = frozenset(),
) -> None:
    """Work that ends by itself once `stop` is set, or is cut short `grace_s` later.

    Tasks that it has `begun` and that are left end with it.
    """
    working = asyncio.create_task(work, name=name)
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=grace_s)
        if working.done():
            working.result()
    finally:
        await end_tasks(working, stopping, *begun)
