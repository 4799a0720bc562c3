"""Results of photos on their way to Redis, which may be large, and the way slow.

Restoration -> bytes -> the scripts `finish` and `keep`
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from service.brokers.codec import encode
from service.brokers.intake import cannot_be_kept
from service.brokers.redis_lanes import Lanes
from service.core.errors import DependencyUnavailable, ImageTooLarge
from service.core.jobs import PhotoJob
from service.core.results import StoredResult
from service.core.types import Restoration

_MOST_BYTES = 512 * 1024 * 1024  # of a value, unless the server is set up otherwise (`proto-max-bulk-len`)
_ATTEMPTS = 3  # at a result that does not get through to a server that answers otherwise
_KEEP_S = 10.0  # longest time that somebody waits for his answer because it is kept, too


async def bring_result(lanes: Lanes[PhotoJob], restoration: Restoration) -> Any:  # noqa: ANN401 - what the script returns
    """Store the result of a job that this gateway has on lease, and end the job.

    Raises:
        ImageTooLarge: It is more than the server takes, or than the way there.
        DependencyUnavailable: The server does not answer.
    """
    report, data = restoration.report, encode(restoration)
    if len(data) > _MOST_BYTES:  # the server would hang up, and seem to be away for ever
        raise cannot_be_kept(len(data), _MOST_BYTES)
    for _ in range(_ATTEMPTS):
        try:
            return await lanes.run_as_taker("finish", report.id, data, encode(report))
        except DependencyUnavailable as error:
            if not (isinstance(error.__cause__, TimeoutError) and await lanes.ready()):
                raise
    raise ImageTooLarge(
        f"the result has {len(data)} bytes, and {_ATTEMPTS} attempts to bring it to the queue's server took too long",
        hint="choose a smaller upscale or output_format=jpeg, or send the photo to /restore",
        result_bytes=len(data),
    )


async def keep_result(
    lanes: Lanes[PhotoJob], restoration: Restoration, owner: str, *, ttl_ms: int
) -> StoredResult | None:
    """Keep the result of a photo that was answered without a job; None where there is no room, or it takes too long.

    Raises:
        DependencyUnavailable: The server does not answer.
    """
    report, data, expires_ms = restoration.report, encode(restoration), None
    if len(data) <= _MOST_BYTES:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEEP_S):
                expires_ms = await lanes.run("keep", report.id, data, encode(report), ttl_ms, owner)
    return None if expires_ms is None else StoredResult(restoration, int(expires_ms) / 1000)
