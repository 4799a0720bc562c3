"""Lines of the log on their way to whoever reads them, who may stop: nobody who logs waits for that.

record ─► line, where it is logged ─► lines that wait, at most so many bytes ─► a thread ─► descriptor
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

_MOST_BYTES = 4 * 1024 * 1024  # some 15 000 lines
_STANDING_S = 1.0  # a reader that takes nothing for so long has stopped
_FLUSH_S = 5.0


class LogWriter(logging.Handler):
    """Writes records to a descriptor; only a thread of its own ever waits until that can be written.

    A record becomes a line where it is logged, because its request, trace and stage are known only there. Lines for
    which there is no room are dropped, and so is what follows until all that waited are written: then a line tells how
    many. Processes that are forked off have no such thread: nothing that they log is written.

    Args:
        descriptor: Where to, such as a pipe; it is this handler's own from now on.
        encoding: Of the lines.
        most_bytes: How much may wait to be written.
    """

    def __init__(self, descriptor: int, encoding: str = "utf-8", *, most_bytes: int = _MOST_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._encoding = encoding
        self._most_bytes = most_bytes
        self._lines: deque[bytes] = deque()  # those that are being written included
        self._held_bytes = 0
        self._dropped = 0
        self._lost = 0  # lines that could not be written
        self._torn = False  # the last one that was lost has begun
        self._moved = threading.Condition()
        self._thread: threading.Thread | None = None
        self.on_drop: Callable[[], None] = lambda: None
        """Called for each line that is lost, on any thread."""

    def emit(self, record: logging.LogRecord) -> None:
        """Let a record be written soon."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001 - whoever logs must not end by it, nor is standard error written to from here
            line = self._own_line("a record of %s cannot be written", record.name, exc_info=sys.exc_info())
        if sys.is_finalizing():  # no thread runs any more, and to begin one would last for ever
            self._write_if_ready(line)
            return
        with self._moved:
            has_room = not self._lines or self._held_bytes + len(line) <= self._most_bytes
            is_taken = has_room and not self._dropped
            if is_taken:
                self._put(line)
            else:
                self._dropped += 1
        if not is_taken:
            self.on_drop()

    def flush(self) -> None:
        """Wait until everything is written, while somebody reads, but not for long."""
        end_s = time.monotonic() + _FLUSH_S
        with self._moved:
            while self._lines and time.monotonic() < end_s:
                if not self._moved.wait(_STANDING_S):
                    return

    def _put(self, line: bytes) -> None:
        if self._thread is None and not self._begin():
            self._write_if_ready(line)
            return
        self._lines.append(line)
        self._held_bytes += len(line)
        self._moved.notify_all()

    def _begin(self) -> bool:
        """Start the thread that writes; whether the system has one left."""
        thread = threading.Thread(target=self._work, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _work(self) -> None:
        while True:
            with self._moved:
                self._moved.wait_for(lambda: self._lines)
                together = self._first_lines()
            is_written = self._write(b"".join(together))
            with self._moved:
                for line in together:
                    self._lines.popleft()
                    self._held_bytes -= len(line)
                if not is_written:
                    self._lost += len(together)
                elif self._lost:
                    self._put(self._own_line("the log could not be written: %d lines are missing here", self._lost))
                    self._lost = 0
                if self._dropped and not self._lines:
                    told = "the log was not read: %d lines of it are missing here"
                    self._put(self._own_line(told, self._dropped))
                    self._dropped = 0
                self._moved.notify_all()
            if not is_written:
                for _ in together:
                    self.on_drop()

    def _first_lines(self) -> list[bytes]:
        """At least one line, and as many as a pipe takes as a whole: lines of processes that share one do not mix.

        One at a time would be too slow beside threads that compute: each write has to wait for the interpreter again.
        """
        taken: list[bytes] = []
        size_bytes = 0
        for line in self._lines:
            size_bytes += len(line)
            if taken and size_bytes > select.PIPE_BUF:
                break
            taken.append(line)
        return taken

    def _write(self, text: bytes) -> bool:
        """Write all of it, however long that takes; whether it could be written."""
        left = memoryview(b"\n" + text if self._torn else text)
        size_bytes = len(left)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # who shares it has made it so
                select.select((), (self._descriptor,), ())
            except OSError:  # the reader has gone, or the disk is full
                self._torn |= len(left) < size_bytes
                return False
        self._torn = False
        return True

    def _write_if_ready(self, line: bytes) -> None:
        """Write a line, as much of it as a pipe takes as a whole, if that needs no waiting."""
        with contextlib.suppress(OSError):
            if select.select((), (self._descriptor,), (), 0)[1]:
                whole = len(line) <= select.PIPE_BUF
                os.write(self._descriptor, line if whole else line[: select.PIPE_BUF - 1] + b"\n")

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")

    def _own_line(self, message: str, *arguments: object, exc_info: Any = None) -> bytes:  # noqa: ANN401 - as logging's
        """A line of this handler's own, which passes no logger: a thread that waits for it may hold their locks."""
        return self._line(logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, arguments, exc_info))
