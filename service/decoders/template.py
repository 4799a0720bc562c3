"""The process that every decoder's process is a copy of; it never sees a photo.

    service --BIRTH, sockets--> template --fork--> child, which answers by its own socket
    service --END-----------> template --SIGKILL-> child ..... its exit status, by a socket of its own -> service

Started by `service.decoders.nursery` as a program, before anything of the service is in it: one thread, no networks, no
secrets in its environment. Only its parent tells it something; when the parent is gone it ends, with all children.
"""

from __future__ import annotations

import gc
import io
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import cv2
from PIL import Image, ImageCms

from service.core.types import Upload
from service.decoders.child import Decode, decode_one
from service.decoders.confinement import (
    address_space_bytes,
    be_the_first_to_go,
    end_with,
    keep_only,
    renounce,
)
from service.decoders.wire import Channel, Ended
from service.stages.decode import DecodeLimits, decode, decode_picture

ORDER = struct.Struct("<cQ")  #: what to do, and the number of the child, which the service chooses
BIRTH, END = b"B", b"E"
STATUS = struct.Struct("<i")  #: of a child that has ended, as `os.waitpid` tells it
NOT_BORN = -1  #: there is no such status

_WARM_PX = 64
_WARM_LIMITS = DecodeLimits(max_upload_bytes=1 << 20, max_image_px=_WARM_PX**2, min_side_px=1)
_WARM_KINDS = (("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("RGBA", "WEBP"))


@dataclass(slots=True)
class _Template:
    """Whoever is alive.

    Attributes:
        control: Orders come by it.
        decode: What children do.
        cpu_s: Seconds of computing that each may have.
        own_bytes: What each has mapped before it has a photo.
        living: Their numbers, and where to tell how they end, by process id.
    """

    control: socket.socket
    decode: Decode
    cpu_s: int
    own_bytes: int
    living: dict[int, tuple[int, socket.socket]] = field(default_factory=dict)

    def work(self) -> None:
        """Do as told until nobody tells any more."""
        heard, noise = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(noise, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self.control.fileno(), heard], [], [])
            if heard in ready:
                os.read(heard, 4096)
                self._bury()
            if self.control.fileno() in ready and not self._obey():
                break
        for pid in self.living:
            os.kill(pid, signal.SIGKILL)
        while self.living:
            self._bury(wait=True)

    def _obey(self) -> bool:
        order, descriptors, _, _ = socket.recv_fds(self.control, ORDER.size, 2)
        if not order:
            return False
        kind, number = ORDER.unpack(order)
        if kind == BIRTH:
            channel, status = (socket.socket(fileno=descriptor) for descriptor in descriptors)
            self._bear(number, channel, status)
        else:
            for pid, (known, _) in self.living.items():
                if known == number:
                    os.kill(pid, signal.SIGKILL)  # it is ours to bury, so the id is nobody else's
        return True

    def _bear(self, number: int, channel: socket.socket, status: socket.socket) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self._tell(status, NOT_BORN)
            channel.close()
            return
        if pid == 0:
            self._live(parent, channel)
        channel.close()
        self.living[pid] = number, status

    def _live(self, parent: int, channel: socket.socket) -> NoReturn:
        """A child's life, all of it."""
        status = 1
        try:
            end_with(parent)
            signal.set_wakeup_fd(-1)
            keep_only(channel.fileno())
            alone = Channel(socket.socket(fileno=0))
            renounce(self.cpu_s)
            decode_one(alone, self.decode, self.own_bytes)
            status = 0
        except Ended:
            status = 0
        finally:
            os._exit(status)

    def _bury(self, *, wait: bool = False) -> None:
        while self.living:
            pid, status = os.waitpid(-1, 0 if wait else os.WNOHANG)
            if pid == 0:
                return
            _, told = self.living.pop(pid)
            self._tell(told, status)

    @staticmethod
    def _tell(told: socket.socket, status: int) -> None:
        try:
            told.send(STATUS.pack(status), socket.MSG_DONTWAIT)
        except OSError:
            pass  # nobody waits for it
        finally:
            told.close()


def run(control: socket.socket, cpu_s: int, decode: Decode = decode_picture) -> None:
    """Bear and bury children until the other end of the socket is closed.

    Args:
        control: A socket that keeps messages apart.
        cpu_s: Seconds of computing that each child may have.
        decode: What a child does with a file of which the header has been checked.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the service is told to end, and finishes its photos first
    be_the_first_to_go()
    cv2.setNumThreads(1)
    _warm_up()
    gc.freeze()  # a collection in a child would copy every page
    _Template(control, decode, cpu_s, address_space_bytes()).work()


def _warm_up() -> None:
    """Decode a small file of each kind: a child can open no file, so that everything must be loaded before."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, kind in _WARM_KINDS:
        buffer = io.BytesIO()
        Image.new(mode, (_WARM_PX, _WARM_PX)).save(buffer, kind, icc_profile=profile)
        decode(Upload(buffer.getvalue()), _WARM_LIMITS)


def main(run: Callable[[socket.socket, int], None] = run) -> None:
    """`template DESCRIPTOR SECONDS`, as the nursery starts it."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        run(control, int(sys.argv[2]))


if __name__ == "__main__":
    main()
