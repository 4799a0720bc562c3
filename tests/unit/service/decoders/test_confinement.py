"""What a decoder's process gives up, each piece by itself: the others would hide that it is missing."""

import contextlib
import json
import os
import platform
import subprocess
import sys

import pytest

from tests.confined_process import SOMEBODY
from tests.processes import ROOT

# What docs/SECURITY.md allows, but for the calls that end the process.
FREE = {
    "x86_64": {
        **{"read": 0, "write": 1, "sendto": 44, "recvfrom": 45},
        **{"mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "madvise": 28},
        **{"rt_sigaction": 13, "rt_sigprocmask": 14, "sched_yield": 24, "futex": 202},
        **{"getpid": 39, "gettid": 186, "clock_gettime": 228, "getrandom": 318},
    },
    "aarch64": {
        **{"read": 63, "write": 64, "sendto": 206, "recvfrom": 207},
        **{"mmap": 222, "mprotect": 226, "munmap": 215, "brk": 214, "mremap": 216, "madvise": 233},
        **{"rt_sigaction": 134, "rt_sigprocmask": 135, "sched_yield": 124, "futex": 98},
        **{"getpid": 172, "gettid": 178, "clock_gettime": 113, "getrandom": 278},
    },
}
EPERM = -1


@contextlib.contextmanager
def confined(act):
    """A process that does this and may wait for its input."""
    command = [sys.executable, "-m", "tests.confined_process", act]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process):
    return json.loads(process.stdout.readline())


@pytest.mark.skipif(platform.machine() not in FREE, reason="no filter of calls for this processor")
def test_all_calls_fail_but_those_for_memory_the_socket_signals_and_time():
    with confined("calls") as process:
        assert set(told(process)) == set(FREE[platform.machine()].values())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="no other processor has calls of 32 bits beside its own")
def test_calls_of_32_bits_are_no_way_around_those_of_64():
    with confined("calls_of_32_bits") as process:
        line = process.stdout.readline()
    if not line:
        pytest.skip("this kernel has no calls of 32 bits")
    known, execve = json.loads(line)
    assert known
    assert execve == EPERM


def test_nobody_looks_into_it_who_may_not_look_into_everything():
    """The kernel gives the files of such a process to root."""
    with confined("renounced") as process:
        user = told(process)
        memory = f"/proc/{process.pid}/mem"
        assert user == (SOMEBODY if os.getuid() == 0 else os.getuid())
        assert os.stat(memory).st_uid == user
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert told(process) == "done"
        assert os.stat(memory).st_uid != user


def test_nothing_stays_open_but_the_socket():
    with confined("descriptors") as process:
        assert told(process) == {"0": "socket", "1": "/dev/null", "2": "/dev/null"}


def test_it_ends_with_its_parent():
    with confined("orphan") as process:
        told(process)
        process.kill()
        assert process.stdout.read() == b""  # which its child holds, too


def test_it_ends_where_its_parent_has_ended_already():
    with confined("adopted") as process:
        assert told(process) == 1
