"""What a process that reads other people's files may not do, as far as Linux lets a process say so of itself.

Each limit is for good: none can be raised again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

from service.decoders.calls import allow_few_calls

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_FIRST_TO_GO = "1000"  # where memory runs out, the kernel ends this and not the service


def be_the_first_to_go() -> None:
    """Let the kernel choose this process and its children when memory has run out."""
    with contextlib.suppress(OSError):  # not everywhere may a process say so
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


def keep_only(channel: int) -> None:
    """Make a socket's descriptor number 0, and close all others but the outputs, which go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(channel, 0)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the one that lists them
                os.close(int(name))


def end_with(parent: int) -> None:
    """End this process when its parent of that id does, or has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def renounce(cpu_s: int) -> None:
    """Give up what reading a file does not need: files, sockets, processes, privileges, most calls, core files.

    After `cpu_s` seconds of computing, at least 1, the kernel ends this process.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # no core file, and no other process of this user looks into this one
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    allow_few_calls()


def address_space_bytes() -> int:
    """What this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def limit_memory(total_bytes: int) -> None:
    """Let no more than that be mapped, of any kind; asking for more fails as if there were none."""
    resource.setrlimit(resource.RLIMIT_AS, (total_bytes, total_bytes))


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
