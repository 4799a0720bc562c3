"""When writing results is of no more use, and how what was begun is brought to its end."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_NONE_CAN_BE_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def ends_everything(error: OSError) -> bool:
    """Whether the next result could not be written either, so that it is not worth restoring."""
    return error.errno in _NONE_CAN_BE_WRITTEN


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
