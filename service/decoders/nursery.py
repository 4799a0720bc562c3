"""Where decoders' processes come from, and how their ends are learnt: orders to `service.decoders.template`."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from service.core.errors import DependencyUnavailable
from service.core.types import DecodedImage, Upload
from service.decoders.template import BIRTH, END, NOT_BORN, ORDER, STATUS
from service.decoders.wire import SOCKET_BYTES, Channel, Ended, receive_answer, send_request
from service.stages.decode import DecodeLimits

TEMPLATE = "service.decoders.template"

_ROOT = Path(__file__).resolve().parents[2]
# What a Python with our libraries may need of the environment; everything else, secrets above all, stays here.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
_ADDED = {
    "PYTHONPATH": str(_ROOT),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # A child has each page of a photo for the first time; large pages make a decode of 12 megapixels twice as fast.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_ORDER_S = 10.0  # for an order to be taken, when the template is not hung
_STATUS_S = 5.0  # from the end of a child to its status
_FAREWELL_S = 5.0


@dataclass(frozen=True, slots=True)
class Child:
    """A process that waits for one photo; a context manager, at whose end it is ended, too.

    Attributes:
        number: What the template calls it.
        channel: To it.
        status: How it ended comes by it.
        nursery: Where it comes from.
    """

    number: int
    channel: socket.socket
    status: socket.socket
    nursery: Nursery

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end; it is waited for by the template."""
        self.channel.close()
        self.status.close()

    def decode(self, upload: Upload, limits: DecodeLimits, patience_s: float) -> DecodedImage:
        """Let it decode a photo, for `patience_s` at most.

        Raises:
            InputError, Told, Ended, Garbled, TooLate: As of `receive_answer`; how it has ended `end` tells.
        """
        channel = Channel.until(self.channel, patience_s)
        with contextlib.suppress(Ended):  # it may have said why before it had read everything
            send_request(channel, upload, limits)
        return receive_answer(channel, limits)

    @property
    def gone(self) -> bool:
        """Whether it has ended already."""
        try:
            self.channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def kill(self) -> None:
        """End it, whatever it does."""
        self.nursery.order(END, self.number)

    def end(self) -> int | None:
        """How it has ended, as `os.waitpid` tells it; None where the template could not bear it, or has ended, too."""
        self.status.settimeout(_STATUS_S)
        try:
            told = self.status.recv(STATUS.size)
        except OSError:
            return None
        status = STATUS.unpack(told)[0] if len(told) == STATUS.size else NOT_BORN
        return None if status == NOT_BORN else int(status)


class Nursery:
    """Starts the template, and again when it is lost; safe to use from several threads.

    Args:
        cpu_s: Seconds of computing that each child may have.
        template: The module that is the template.
    """

    def __init__(self, cpu_s: int, template: str = TEMPLATE) -> None:
        self._command = [sys.executable, "-P", "-m", template]
        self._cpu_s = cpu_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False
        self._last_number = 0

    @property
    def pid(self) -> int | None:
        """The template's process, where there is one."""
        return None if self._process is None else self._process.pid

    def bear(self) -> Child:
        """Order a child; it need not be there yet.

        Raises:
            DependencyUnavailable: No template can be started.
        """
        try:
            with contextlib.ExitStack() as sent, contextlib.ExitStack() as kept:
                ours, theirs = socket.socketpair()
                kept.enter_context(ours)
                sent.enter_context(theirs)
                status, told = socket.socketpair()
                kept.enter_context(status)
                sent.enter_context(told)
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
                with self._lock:
                    self._last_number += 1
                    self._tell_or_start(BIRTH, self._last_number, theirs.fileno(), told.fileno())
                    child = Child(self._last_number, ours, status, self)
                kept.pop_all()  # the child's from now on
            return child
        except OSError as error:
            raise DependencyUnavailable(f"no decoder can be started: {error}", hint="try again") from error

    def order(self, kind: bytes, number: int) -> None:
        """Tell the template something of a child; without a template there are no children."""
        with self._lock, contextlib.suppress(OSError):
            self._tell(kind, number)

    def close(self) -> None:
        """End the template and all children."""
        with self._lock:
            self._closed = True
            self._stop()

    def _tell_or_start(self, kind: bytes, number: int, *descriptors: int) -> None:
        try:
            self._tell(kind, number, *descriptors)
        except OSError:
            self._stop()
            self._start()
            self._tell(kind, number, *descriptors)

    def _tell(self, kind: bytes, number: int, *descriptors: int) -> None:
        if self._control is None:
            raise ConnectionError("there is no template")
        socket.send_fds(self._control, [ORDER.pack(kind, number)], list(descriptors))

    def _start(self) -> None:
        if self._closed:
            raise ConnectionError("the decoders have been closed")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_ORDER_S), 0))
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
                [*self._command, str(theirs.fileno()), str(self._cpu_s)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**kept, **_ADDED},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # who interrupts the service from a terminal lets it finish its photos
            )

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_FAREWELL_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
