"""A template whose children do to themselves what a hostile file might make a decoder do, by the width of the photo."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from functools import partial

import numpy as np

from service.core.types import DecodedImage
from service.decoders.template import main, run
from service.decoders.wire import ANSWER, MAGIC, NOTHING, Head
from service.stages.containers.container import Container
from service.stages.decode import decode_picture

CHANNEL = 0
NAMELESS = 40  # a signal
CRASH, ABORT, SPIN, SWALLOW, BABBLE, LIE, FAIL, HANG, LEAVE, ESCAPE, STUTTER, BOAST, SIGNAL, DIE, HOARD = range(
    101, 116
)


def decode(container: Container) -> DecodedImage:
    """Do what the width says; anything else is decoded."""
    act = _ACTS.get(container.width_px)
    if act is not None:
        act()
    return decode_picture(container)


def _spin() -> None:
    while True:
        pass


def _swallow() -> None:
    held = []
    while True:
        held.append(np.ones(1 << 24, np.uint8))


def _hoard() -> None:
    np.empty(1 << 29, np.uint8)


def _fail() -> None:
    raise RuntimeError("a bug of ours")


def _write(data: bytes) -> None:
    os.write(CHANNEL, data)
    os._exit(0)


def _escape() -> None:
    """Try what a file has no business with, and tell of each attempt that succeeds by the exit status."""
    for attempt in (
        lambda: open("/etc/passwd"),  # noqa: SIM115
        lambda: open("/tmp/escaped", "w"),  # noqa: S108, SIM115
        socket.socket,
        lambda: os.dup(CHANNEL),
        lambda: os.kill(os.getppid(), 0),
        lambda: os.kill(1, 0),
        lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
        os.fork,
        lambda: os.setpriority(os.PRIO_PROCESS, 0, 1),
    ):
        try:
            attempt()
        except OSError:
            continue
        os._exit(42)
    if len(os.environ.keys() & {"LATENT_PMRF_REDIS_URL", "SECRET"}):
        os._exit(43)
    os._exit(44)


def _lie(width: int, height: int, kind: int = 0, text: int = 0) -> bytes:
    return ANSWER.pack(*Head(MAGIC, kind, 1, 0, 0, 0, 0, width, height, NOTHING, NOTHING, 0, text))


_ACTS = {
    CRASH: lambda: ctypes.string_at(0),
    ABORT: os.abort,
    SPIN: _spin,
    SWALLOW: _swallow,
    BABBLE: lambda: _write(b"\x80\x04cos\nsystem\n" + bytes(range(256)) * 10),
    LIE: lambda: _write(_lie(2**31, 2**31)),
    HOARD: _hoard,
    FAIL: _fail,
    HANG: lambda: os.read(CHANNEL, 1),
    LEAVE: lambda: os._exit(0),
    ESCAPE: _escape,
    STUTTER: lambda: _write(_lie(64, 64) + b"too little"),
    SIGNAL: lambda: signal.raise_signal(NAMELESS),
    DIE: lambda: signal.raise_signal(signal.SIGKILL),
    BOAST: lambda: _write(_lie(0, 0, kind=1, text=2**31)),
}

if __name__ == "__main__":
    main(partial(run, decode=decode))
