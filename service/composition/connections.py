"""HTTP connections that cannot be held for nothing: a head comes in time, and an answer is taken in time.

uvicorn waits for both as long as a client likes, and goes on with a connection on which two lengths were claimed. The
time of a body is the application's (`service.api.photo_form`) until it is answered; what comes then is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.core.sending import PART_BYTES, PART_S

_LEAST_TAKEN_BYTES = PART_BYTES // 2  # the system takes some 64 KiB whenever it takes any: not each look sees as many
_TWO_LENGTHS = {b"content-length", b"transfer-encoding"}


class TimedConnection(H11Protocol):
    """One connection.

    Attributes:
        head_s: Seconds from the first byte of a request, or from the connection's beginning, to the end of its head.
        refused_s: Seconds that what is left of a body may take whose request has been answered. Most clients read the
            answer when they have sent all: they should have as long as for a body that is taken.
        read_check_s: Seconds between two looks at a client that does not keep up with its answer.
    """

    head_s: float = 20.0
    refused_s: float = 120.0
    read_check_s: float = PART_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head: asyncio.TimerHandle | None = None
        self._refused: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head; let the system take little ahead of the client, or it would not be seen to read."""
        super().connection_made(transport)
        connection, unsent = transport.get_extra_info("socket"), getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if connection is not None and unsent is not None:
            with contextlib.suppress(OSError):  # it is no TCP, or has gone
                connection.setsockopt(socket.IPPROTO_TCP, unsent, PART_BYTES)
        self._head = self.loop.call_later(self.head_s, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Stop waiting when the head is there; begin when the next one begins, or a body goes on after its answer."""
        super().data_received(data)
        if self._answering:
            self._stop_waiting()
        elif self.conn.their_state is h11.SEND_BODY:
            if self._refused is None:
                self._refused = self.loop.call_later(self.refused_s, self.transport.abort)
        elif self._head is None and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._stop_waiting()  # that body has ended; uvicorn's timer of idle connections was stopped when it came
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif self._head is None:
            self._stop_waiting()
            self._head = self.loop.call_later(self.head_s, self.transport.abort)

    def handle_events(self) -> None:
        """Take no further request after one with two lengths: what follows may be meant as its body (RFC 9112, 6.1)."""
        super().handle_events()
        if self._answering and {name for name, _ in self.headers} >= _TWO_LENGTHS:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """Begin to look whether the client reads."""
        super().pause_writing()
        self._look(None)

    def resume_writing(self) -> None:
        """Stop looking: it has read."""
        super().resume_writing()
        self._stop_looking()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        self._stop_looking()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self, last_bytes: int | None) -> None:
        """Hang up on a client that has read next to nothing of what is left of its answer."""
        left_bytes = self.transport.get_write_buffer_size()
        if last_bytes is not None and last_bytes - left_bytes < _LEAST_TAKEN_BYTES:
            self.transport.abort()
            return
        self._reading = self.loop.call_later(self.read_check_s, self._look, left_bytes)

    def _stop_waiting(self) -> None:
        for timer in (self._head, self._refused):
            if timer is not None:
                timer.cancel()
        self._head = self._refused = None

    def _stop_looking(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
