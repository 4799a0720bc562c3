"""A way to a Redis server that can be slow, or fall silent without an end."""

from __future__ import annotations

import asyncio
import contextlib

_CHUNK_BYTES = 65536


class Link:
    """Passes bytes on between clients and a server, on a socket of its own.

    Args:
        server_url: `unix://` address of the server.
        path: Of the socket that clients connect to.

    Attributes:
        url: What clients connect to.
        most_request_bytes: Of a request nothing beyond that is passed on; None: no limit.
        pause_s: Before a request is passed on.
        most_reply_bytes: The largest reply so far.
        connections: How many there were.
    """

    def __init__(self, server_url: str, path: str) -> None:
        self._server = server_url.removeprefix("unix://")
        self._path = path
        self._tasks: set[asyncio.Task[None]] = set()
        self._silenced: set[asyncio.Task[None]] = set()
        self.url = f"unix://{path}"
        self.most_request_bytes: int | None = None
        self.pause_s = 0.0
        self.most_reply_bytes = 0
        self.connections = 0

    async def __aenter__(self) -> Link:
        """Begin to listen."""
        self._listening = await asyncio.start_unix_server(self._connected, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every connection."""
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def silence(self) -> None:
        """Pass nothing on any more over the connections that there are; they stay open, and new ones work."""
        self._silenced |= self._tasks

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            to_reader, to_writer = await asyncio.open_unix_connection(self._server)
            sizes = {"request": 0, "reply": 0}
            try:
                await asyncio.gather(
                    self._pass_on(task, reader, to_writer, sizes, "request"),
                    self._pass_on(task, to_reader, writer, sizes, "reply"),
                )
            finally:
                to_writer.close()
                writer.close()

    async def _pass_on(self, task, reader, writer, sizes, kind) -> None:
        other = "reply" if kind == "request" else "request"
        while data := await reader.read(_CHUNK_BYTES):
            sizes[kind] += len(data)
            sizes[other] = 0
            if kind == "reply":
                self.most_reply_bytes = max(self.most_reply_bytes, sizes[kind])
            elif self.most_request_bytes is not None and sizes[kind] > self.most_request_bytes:
                continue
            elif sizes[kind] == len(data):
                await asyncio.sleep(self.pause_s)
            if task not in self._silenced:
                writer.write(data)
                await writer.drain()
        writer.close()
