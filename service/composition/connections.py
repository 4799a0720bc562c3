"""HTTP connections that cannot be held for nothing: a head comes in time, and an answer is taken in time.

uvicorn waits for both as long as a client likes. The time of a body is the application's (`service.api.photo_form`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_READ_CHECK_S = 30.0
_LEAST_READ_BYTES = 64 * 1024  # of an answer in that time, where that much is left of it


class TimedConnection(H11Protocol):
    """One connection.

    Attributes:
        head_s: Seconds from the first byte of a request, or from the connection's beginning, to the end of its head.
        read_check_s: Seconds between two looks at a client that does not keep up with its answer.
    """

    head_s: float = 20.0
    read_check_s: float = _READ_CHECK_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._head = self.loop.call_later(self.head_s, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Stop waiting when the head is there; begin when the next one begins."""
        super().data_received(data)
        if self._answering:
            self._head = _stopped(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(self.head_s, self.transport.abort)

    def pause_writing(self) -> None:
        """Begin to look whether the client reads."""
        super().pause_writing()
        self._look(None)

    def resume_writing(self) -> None:
        """Stop looking: it has read."""
        super().resume_writing()
        self._reading = _stopped(self._reading)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._head, self._reading = _stopped(self._head), _stopped(self._reading)
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self, last_bytes: int | None) -> None:
        """Hang up on a client that has read next to nothing of what is left of its answer."""
        left_bytes = self.transport.get_write_buffer_size()
        if last_bytes is not None and last_bytes - left_bytes < _LEAST_READ_BYTES:
            self.transport.abort()
            return
        self._reading = self.loop.call_later(self.read_check_s, self._look, left_bytes)


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
