"""Which calls of the kernel a decoder's process may make: what memory, one socket and an end need. All others fail.

A filter of seccomp, put together here because it is short: numbers of calls by architecture, from the kernel's tables.
Where the architecture is another, or the kernel has no such filters, there is none.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping
from typing import NamedTuple

# From linux/filter.h, linux/seccomp.h and linux/prctl.h.
_LOAD, _IS_EQUAL, _ANSWER = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_AT_CALL, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


class _Calls(NamedTuple):
    """Numbers of one architecture: its own, the calls that are free, and two that may only be about oneself."""

    architecture: int
    free: tuple[int, ...]
    tgkill: int
    prlimit64: int


# In this order: for bytes read, write, sendto, recvfrom; for memory mmap, mprotect, munmap, brk, mremap, madvise; for
# signals rt_sigaction, rt_sigprocmask, rt_sigreturn; then sched_yield, futex, getpid, gettid, clock_gettime, getrandom;
# for the end exit, exit_group.
_BY_MACHINE: Mapping[str, _Calls] = {
    "x86_64": _Calls(
        0xC000003E,
        (0, 1, 44, 45, 9, 10, 11, 12, 25, 28, 13, 14, 15, 24, 202, 39, 186, 228, 318, 60, 231),
        tgkill=234,
        prlimit64=302,
    ),
    "aarch64": _Calls(
        0xC00000B7,
        (63, 64, 206, 207, 222, 226, 215, 214, 216, 233, 134, 135, 139, 124, 98, 172, 178, 113, 278, 93, 94),
        tgkill=131,
        prlimit64=261,
    ),
}


def can_filter_calls() -> bool:
    """Whether `allow_few_calls` does anything here; that is told by how the kernel refuses a filter that is nowhere."""
    if platform.machine() not in _BY_MACHINE:
        return False
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT


def allow_few_calls() -> None:
    """Let all calls but a few fail with EPERM, for good, where `can_filter_calls`."""
    calls = _BY_MACHINE.get(platform.machine())
    if calls is None:
        return
    program = _program(calls)
    steps = ctypes.create_string_buffer(program)
    filter_of_calls = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(steps)))
    address = ctypes.c_ulong(ctypes.addressof(filter_of_calls))
    ctypes.CDLL(None).prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), address, 0, 0)


def _program(calls: _Calls) -> bytes:
    allow, fail = _step(_ANSWER, _ALLOW), _step(_ANSWER, _FAIL | errno.EPERM)
    steps = [
        _step(_LOAD, _AT_ARCHITECTURE),
        _step(_IS_EQUAL, calls.architecture, otherwise=0, then=1),
        fail,
        _step(_LOAD, _AT_CALL),
    ]
    for number in calls.free:
        steps += [_step(_IS_EQUAL, number, otherwise=1), allow]
    for number, oneself in ((calls.tgkill, os.getpid()), (calls.prlimit64, 0)):
        steps += [
            _step(_IS_EQUAL, number, otherwise=4),
            _step(_LOAD, _AT_FIRST_ARGUMENT),
            _step(_IS_EQUAL, oneself, otherwise=1),
            allow,
            fail,
        ]
    return b"".join([*steps, fail])


def _step(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` are how many are left out after a comparison."""
    return struct.pack("=HBBI", code, then, otherwise, value)
