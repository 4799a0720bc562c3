"""Where a job is, as server-sent events: the state now, and again whenever it changes, until it has ended.

Every event has the whole state, so a client that comes back has missed nothing. The last one is named `end` and has the
id `end`; a client that reconnects after it (browsers do) is told to stop with 204.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Send

from service.core.errors import ServiceError
from service.core.jobs import JobStatus

LAST_ID = "end"
_RETRY_MS = 2000
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # proxies must not collect events

logger = logging.getLogger(__name__)


class EventStream(StreamingResponse):
    """A stream of events; what it reads from is closed when the client goes away, too."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, headers=_HEADERS)
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send until the events or the client end."""
        async with contextlib.aclosing(self._events):
            await super().stream_response(send)


async def events_of(
    statuses: AsyncGenerator[JobStatus, None],
    describe: Callable[[JobStatus], Awaitable[BaseModel]],
    *,
    heartbeat_s: float,
    draining: Callable[[], bool],
) -> AsyncGenerator[bytes, None]:
    """Events of one job.

    Args:
        statuses: What is told; closed at the end.
        describe: A status as a client sees it.
        heartbeat_s: Longest silence; then a comment keeps the connection alive.
        draining: Whether the process is shutting down; a job that does not move then is left to be watched elsewhere.
    """
    yield f"retry: {_RETRY_MS}\n\n".encode()
    count = 0
    try:
        async with contextlib.aclosing(_with_pauses(statuses, heartbeat_s)) as moments:
            async for status in moments:
                if status is not None:
                    count += 1
                    final = status.state.final
                    data = (await describe(status)).model_dump_json()
                    yield _event("end" if final else "status", LAST_ID if final else str(count), data)
                elif draining():
                    return
                else:
                    yield b": still here\n\n"
    except ServiceError as error:  # the client comes back and is told by a status code
        logger.info("a stream of events ends early: %s", error.detail)


async def _with_pauses(
    statuses: AsyncGenerator[JobStatus, None], pause_s: float
) -> AsyncGenerator[JobStatus | None, None]:
    """The statuses, and None whenever there has been none for `pause_s`."""
    coming: asyncio.Future[JobStatus | None] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(_next(statuses))
            await asyncio.wait({coming}, timeout=pause_s)
            if not coming.done():
                yield None
                continue
            status, coming = coming.result(), None
            if status is None:
                return
            yield status
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await statuses.aclose()


async def _next(statuses: AsyncIterator[JobStatus]) -> JobStatus | None:
    return await anext(statuses, None)


def _event(name: str, event_id: str, data: str) -> bytes:
    return f"event: {name}\nid: {event_id}\ndata: {data}\n\n".encode()
