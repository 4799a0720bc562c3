"""Ends a process whose networks have stopped answering, so that whoever started it starts it anew."""

from __future__ import annotations

import asyncio
import logging
import os

from service.backends.watched import WatchedBackend
from service.core.tasks import pause

_LOOKS_PER_CALL = 10

logger = logging.getLogger(__name__)


async def watch(backend: WatchedBackend, longest_s: float, stop: asyncio.Event) -> None:
    """End the process when a network call does not come back; what it was at goes to other processes.

    Nothing less helps: the thread that is stuck cannot be ended, and the process's signs of life would go on for ever.

    Args:
        backend: All calls of the process.
        longest_s: Seconds a call may last, its wait for its turn included.
        stop: Ends the watch.
    """
    while not stop.is_set():
        if backend.oldest_s > longest_s:
            logger.critical("a network call has lasted for %.1f s; the process is stuck, and ends", backend.oldest_s)
            logging.shutdown()  # what is told of it is written first
            os._exit(1)
        await pause(longest_s / _LOOKS_PER_CALL, stop)
