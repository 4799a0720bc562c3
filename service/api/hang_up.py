"""Work and a client in, the work's result or its cancellation out: nobody computes for a client that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from service.core.errors import HungUp
from service.core.tasks import end_tasks

T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and cancel it as soon as the client disconnects.

    The server's `receive` is raced against the work: polling would notice late, and not at all behind middleware that
    has its own `receive`.

    Args:
        receive: The connection's channel, the request body already read.
        work: What to do.

    Raises:
        HungUp: The client went away; the work has been cancelled and has ended.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HungUp("the client went away")
        return task.result()
    finally:
        await end_tasks(watcher, task)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
