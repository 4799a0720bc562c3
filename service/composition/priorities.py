"""Who goes first where there are fewer cores than threads that want one."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_NICER = 5


def stand_back() -> None:
    """Let the event loop go before this thread, which computes for milliseconds at a time.

    A photo wakes the loop some sixty times, and each time it would wait for a core behind stages of other photos. On
    Linux a thread has a niceness of its own; elsewhere it is the whole process's, and nothing is done.
    """
    if sys.platform != "linux":
        return
    own = threading.get_native_id()
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then it goes on as it was
        os.setpriority(os.PRIO_PROCESS, own, min(19, os.getpriority(os.PRIO_PROCESS, own) + _NICER))
