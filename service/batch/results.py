"""How the writing of a result is brought to its end, though nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_the_end(
    function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> tuple[T, asyncio.CancelledError | None]:
    """Run something in a thread, and wait for its end though this task is cancelled meanwhile.

    Returns:
        What the function returns, and the cancellation, which the caller raises when it has told of what was done.

    Raises:
        Exception: What the function raises, also if this task was cancelled meanwhile.
    """
    running = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    return running.result(), cancelled
