"""Calls in, their results out, on threads for what only computes; who waits for a thread waits on the event loop.

A pool keeps what it is given until a thread is free, though nobody waits for it any more. So a call is handed to the
pool only when there is a thread for it: whoever goes earlier leaves nothing behind, and no photo of his.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A number of threads, used within one event loop. A context manager: its end waits for calls that are running.

    Args:
        count: So many calls run at once; the others stand in line.
        initializer: Called first on each thread, or None.
    """

    def __init__(self, count: int, *, initializer: Callable[[], object] | None = None) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="stage", initializer=initializer)
        self._turns = asyncio.Semaphore(count)

    def __enter__(self) -> Self:
        """Begin without a call."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take no more calls, and wait for those that are running."""
        self._pool.shutdown()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a thread, in the caller's context; a call that has begun goes on when he is cancelled."""
        call = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))
        await self._turns.acquire()
        try:
            work = self._pool.submit(call)
        except BaseException:
            self._turns.release()
            raise
        work.add_done_callback(partial(self._give_back, asyncio.get_running_loop()))
        return await asyncio.wrap_future(work)

    def _give_back(self, loop: asyncio.AbstractEventLoop, _work: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is in line
            loop.call_soon_threadsafe(self._turns.release)
