"""What callers are told, and may send, as long as this process stays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from service.core.errors import Draining
from service.core.jobs import JobStatus
from service.core.tasks import beside, end_tasks


async def while_here(statuses: AsyncGenerator[JobStatus, None], left: asyncio.Event) -> AsyncGenerator[JobStatus, None]:
    """The same statuses until they end or `left` is set; they are closed then.

    Raises:
        Draining: The latter; the job goes on to be watched elsewhere.
    """
    leaving = asyncio.create_task(left.wait(), name="leaving")
    coming: asyncio.Future[JobStatus | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(statuses, None))
            await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise Draining("the service shuts down before the restoration has ended", hint="watch another instance")
            status = coming.result()
            if status is None:
                return
            yield status
    finally:
        await end_tasks(leaving, *([] if coming is None else [coming]))
        await statuses.aclose()


@contextlib.asynccontextmanager
async def awaited_here(left: asyncio.Event) -> AsyncIterator[None]:
    """Wait for the caller in the block until `left` is set.

    Raises:
        Draining: It is.
    """
    try:
        async with asyncio.timeout(None) as end:
            async with beside(left.wait(), "leaving") as leaving:
                leaving.add_done_callback(lambda done: None if done.cancelled() else end.reschedule(0))
                yield
    except TimeoutError as error:
        if not end.expired():
            raise
        raise Draining("the service shuts down before the photo is complete", hint="try another instance") from error
