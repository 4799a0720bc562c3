"""Where a job is, as long as this process stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from service.core.errors import Draining
from service.core.jobs import JobStatus


async def while_here(statuses: AsyncGenerator[JobStatus, None], left: asyncio.Event) -> AsyncGenerator[JobStatus, None]:
    """The same statuses until they end or `left` is set; they are closed then.

    Raises:
        Draining: The latter; the job goes on to be watched elsewhere.
    """
    leaving = asyncio.create_task(left.wait(), name="leaving")
    coming: asyncio.Future[JobStatus | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(_next(statuses))
            await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise Draining("the service shuts down before the restoration has ended", hint="watch another instance")
            status = coming.result()
            if status is None:
                return
            yield status
    finally:
        tasks: list[asyncio.Future[Any]] = [leaving] if coming is None else [leaving, coming]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await statuses.aclose()


async def _next(statuses: AsyncGenerator[JobStatus, None]) -> JobStatus | None:
    return await anext(statuses, None)
