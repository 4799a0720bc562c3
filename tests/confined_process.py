"""A process that gives up what a decoder's gives up, piece by piece, and tells what it still can: `ACT`, by its name.

Each act writes one line of JSON; those that somebody looks at from outside wait then until their input is closed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import sys

from service.decoders.calls import allow_few_calls
from service.decoders.confinement import end_with, keep_only, renounce

SOMEBODY = 12345  # a user without rights
CALLS = 700  # more than there are
_PR_SET_DUMPABLE = 4
# rt_sigreturn, exit, exit_group; and the probes' own, which no filter sees and which end who calls them.
_ENDS = {"x86_64": (15, 60, 231, 335, 336), "aarch64": (93, 94, 139)}
_HARMLESS = {"x86_64": 110, "aarch64": 173}  # getppid
_OF_32_BITS = {"getpid": 20, "execve": 11}  # the latter has the number of munmap among calls of 64 bits


def _tell(value: object, output: int = 1) -> None:
    os.write(output, json.dumps(value).encode() + b"\n")


def calls() -> None:
    """Tell the numbers of all calls that do not fail with EPERM, but those that end a process."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    machine = platform.machine()

    def is_free(number: int) -> bool:
        ctypes.set_errno(0)
        return call(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6) != -1 or ctypes.get_errno() != errno.EPERM

    allow_few_calls()
    if is_free(_HARMLESS[machine]):  # without a filter nobody knows what the others do
        os._exit(1)
    _tell([number for number in range(CALLS) if number not in _ENDS[machine] and is_free(number)])
    os._exit(0)


def calls_of_32_bits() -> None:
    """Tell what `getpid` gives by the entrance for programs of 32 bits before all is given up, and `execve` then."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    entrances = {}
    for at, (name, number) in enumerate(_OF_32_BITS.items()):
        code = b"\x53\xb8" + number.to_bytes(4, "little") + b"\x31\xdb\x31\xc9\x31\xd2\xcd\x80\x5b\xc3"
        page[at * 64 : at * 64 + len(code)] = code  # push rbx; mov eax, number; no arguments; int 0x80; pop rbx; ret
        entrances[name] = ctypes.CFUNCTYPE(ctypes.c_int)(address + at * 64)
    known = entrances["getpid"]() == os.getpid()
    allow_few_calls()
    _tell([known, entrances["execve"]()])
    os._exit(0)


def renounced() -> None:
    """Give up all, as somebody without rights, and wait."""
    if os.getuid() == 0:
        os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
        os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as before the change of users
    _tell(os.getuid())
    os.read(0, 1)
    renounce(cpu_s=7)
    _tell("done")
    os.read(0, 1)
    os._exit(0)


def descriptors() -> None:
    """Tell what is open when nothing should be but a socket."""
    ours, kept = socket.socketpair()
    files = [open("/proc/self/status"), open("/proc/self/limits"), ours]  # noqa: SIM115
    told = os.dup(1)
    moved = 63  # so high that it is the last to be closed
    os.dup2(told, moved)
    inherited = os.fork()
    if inherited == 0:
        keep_only(kept.fileno())
        links = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                links[name] = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
            except OSError:
                continue  # the one that lists them
        _tell(links, output=0)
        os._exit(0)
    os.waitpid(inherited, 0)
    os.write(1, ours.recv(4096))
    del files


def orphan() -> None:
    """Let a child wait that ends with this process, and wait, too."""
    parent = os.getpid()
    if os.fork() == 0:
        end_with(parent)
        _tell(os.getpid())
    os.read(0, 1)


def adopted() -> None:
    """Tell how a child ends whose parent is another than it was."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        end_with(os.getpid())
        os._exit(0)
    _tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
