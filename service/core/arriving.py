"""How slowly a photo may arrive: a place that others wait for is not kept for bytes that trickle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from service.core.errors import DeadlineExceeded

FIRST_BYTES_S = 20.0
_LEAST_BYTES_PER_S = 4096  # a photo of half a megabyte in two minutes: nobody's connection is slower


@contextlib.asynccontextmanager
async def arriving(longest_s: float, first_bytes_s: float = FIRST_BYTES_S) -> AsyncIterator[Callable[[int], None]]:
    """Bound the time of the block, in which a photo arrives; the value is told how many bytes of it have come so far.

    It must be there after `longest_s`, and after `first_bytes_s` it must have come at the least rate that is borne.

    Raises:
        DeadlineExceeded: It did not arrive in time.
    """
    begin_s = asyncio.get_running_loop().time()

    def ends_s(count_bytes: int) -> float:
        return begin_s + min(longest_s, first_bytes_s + count_bytes / _LEAST_BYTES_PER_S)

    try:
        async with asyncio.timeout_at(ends_s(0)) as end:
            yield lambda count_bytes: end.reschedule(ends_s(count_bytes))
    except TimeoutError as error:
        if not end.expired():
            raise
        taken_s = round(asyncio.get_running_loop().time() - begin_s, 1)
        raise DeadlineExceeded(
            f"the request body is not there after {taken_s:g} s", hint="send it faster, or a smaller photo"
        ) from error
