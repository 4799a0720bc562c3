"""Where a job is, as server-sent events: the state now, and again whenever it changes, until it has ended.

Every event has the whole state, so a client that comes back has missed nothing. The last one is named `end` and has the
id `end`; a client that reconnects after it (browsers do) is told to stop with 204. Previews have no id: who is not
there misses them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Send

from service.api.job_schemas import PreviewSchema
from service.core.errors import ServiceError
from service.core.jobs import JobStatus
from service.core.tasks import end_tasks
from service.core.types import FacePreview

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
    describe: Callable[[JobStatus], BaseModel],
    *,
    previews: AsyncGenerator[FacePreview, None] | None = None,
    heartbeat_s: float,
    draining: Callable[[], bool],
) -> AsyncGenerator[bytes, None]:
    """Events of one job.

    Args:
        statuses: What is told; closed at the end.
        describe: A status as a client sees it.
        previews: Shown besides, if they come; closed at the end.
        heartbeat_s: Longest silence; then a comment keeps the connection alive.
        draining: Whether the process is shutting down; a job that does not move then is left to be watched elsewhere.
    """
    yield f"retry: {_RETRY_MS}\n\n".encode()
    count = 0
    try:
        async with contextlib.aclosing(_moments(statuses, previews or _nothing(), heartbeat_s)) as moments:
            async for moment in moments:
                if isinstance(moment, FacePreview):
                    yield _event("preview", None, PreviewSchema.of(moment).model_dump_json())
                elif moment is not None:
                    count += 1
                    final = moment.state.final
                    data = describe(moment).model_dump_json()
                    yield _event("end" if final else "status", LAST_ID if final else str(count), data)
                elif draining():
                    return
                else:
                    yield b": still here\n\n"
    except ServiceError as error:  # the client comes back and is told by a status code
        logger.info("a stream of events ends early: %s", error.detail)


async def _moments(
    statuses: AsyncGenerator[JobStatus, None], previews: AsyncGenerator[FacePreview, None], pause_s: float
) -> AsyncGenerator[JobStatus | FacePreview | None, None]:
    """The statuses and previews as they come until the statuses end, and None whenever nothing came for `pause_s`."""
    coming: dict[str, asyncio.Future[Any]] = {}
    try:
        while True:
            if "status" not in coming:
                coming["status"] = asyncio.ensure_future(anext(statuses, None))
            if "preview" not in coming:
                coming["preview"] = asyncio.ensure_future(anext(previews, None))
            # Previews that have ended leave their None where it is: nothing more is asked of them.
            open_ends = [each for each in coming.values() if not each.done()]
            await asyncio.wait(open_ends, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            if not any(each.done() for each in open_ends):
                yield None
            if coming["status"].done():
                if (status := coming.pop("status").result()) is None:
                    return
                yield status
                if status.state.final:  # a preview may be there, too; the end is the last event
                    return
            if coming["preview"].done() and coming["preview"].result() is not None:
                yield coming.pop("preview").result()
    finally:
        await end_tasks(*coming.values())
        await statuses.aclose()
        await previews.aclose()


async def _nothing() -> AsyncGenerator[FacePreview, None]:
    return
    yield


def _event(name: str, event_id: str | None, data: str) -> bytes:
    numbered = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {name}\n{numbered}data: {data}\n\n".encode()
