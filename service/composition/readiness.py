"""Whether a process can do its work, as a metric: what `/readyz` answers, looked at every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from service.core.metrics import Metrics
from service.core.tasks import pause

_LOOK_S = 5.0
_PATIENCE_S = 5.0  # what is asked answers within a second or two, or is not there

logger = logging.getLogger(__name__)


async def keep_ready(
    reasons_not_ready: Callable[[], Awaitable[list[str]]],
    metrics: Metrics,
    stop: asyncio.Event,
    *,
    look_s: float = _LOOK_S,
    patience_s: float = _PATIENCE_S,
) -> None:
    """Show until `stop` is set whether the process is ready; afterwards it is not.

    Args:
        reasons_not_ready: Why not; empty when it is. One that fails, or takes too long, is a reason.
        metrics: Told what was seen.
        stop: Ends the looking.
        look_s: Seconds between two looks.
        patience_s: Longest time of a look.
    """
    try:
        while not stop.is_set():
            metrics.ready(await _is_ready(reasons_not_ready, patience_s))
            await pause(look_s, stop)
    finally:
        metrics.ready(False)


async def _is_ready(reasons_not_ready: Callable[[], Awaitable[list[str]]], patience_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            try:
                return not await reasons_not_ready()
            except Exception:
                logger.exception("unexpected error while it was asked whether the process is ready")
    return False
