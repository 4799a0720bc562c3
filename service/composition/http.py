"""HTTP on a bound socket, from the moment it can be asked until everybody has been answered.

signal -> drain (still answering) -> no new connections -> answers under way end -> the rest is sent away
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import uvicorn

from service.composition.connections import TimedConnection
from service.composition.ending import Ending
from service.composition.loops import Loops
from service.composition.tls import Tls
from service.core.tasks import end_tasks

_FAREWELL_S = 2.0  # for what those are told who are sent away
# Longer than proxies and clients keep theirs (nginx and AWS 60 s, httpx 5 s): whoever sends next must hang up first, or
# a request is now and then sent into a connection that is being closed, and gets no answer.
_IDLE_CONNECTION_S = 75


class Process(Protocol):
    """What is behind the socket."""

    @property
    def ending(self) -> Ending:
        """When to stop."""
        ...

    @property
    def loops(self) -> Loops:
        """Without any one of them the process is of no use."""
        ...

    async def drain(self) -> None:
        """Take nothing more; return when what was taken is finished, or handed back because its time is over."""
        ...

    async def dismiss(self) -> None:
        """Send everybody away who still waits for something."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Attributes:
        failures: Errors that ended its loops, by their names.
        was_hurried: It was told twice, and did not finish what it had begun.
    """

    failures: Mapping[str, BaseException]
    was_hurried: bool


def tcp_socket(host: str) -> socket.socket:
    """An unbound socket of the host's family.

    The protocol is named although there is no other: asyncio switches Nagle's algorithm off only where it is, and with
    it on every answer on a kept connection waits some 40 ms for the client's acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    created = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return created


def address_of(listener: socket.socket, tls: Tls | None = None) -> str:
    """Where a bound socket can be reached, as `http://HOST:PORT`, with TLS as `https://HOST:PORT`."""
    host, port = listener.getsockname()[:2]
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def serve_until_told(
    app: Any,  # noqa: ANN401 - an ASGI application, of a framework or not
    listener: socket.socket,
    process: Process,
    on_ready: Callable[[], None],
    tls: Tls | None = None,
) -> None:
    """Serve until the process is told to end, or one of its loops has ended by itself.

    Args:
        app: Answers requests; who asks while the process drains is answered, too.
        listener: A bound socket; it is closed on the way.
        process: What is behind it.
        on_ready: Called when connections are taken.
        tls: How connections are encrypted; None: in the clear.
    """
    ending = process.ending
    encrypted = {} if tls is None else tls.for_uvicorn()
    config = uvicorn.Config(
        app,
        http=TimedConnection,
        lifespan="off",
        log_config=None,  # what is logged is written as everything else of the process
        access_log=False,  # it would hold paths and queries
        server_header=False,
        timeout_keep_alive=_IDLE_CONNECTION_S,
        **encrypted,
    )
    config.load()
    server = _Server(config, on_ready)
    renewing = None if tls is None or config.ssl is None else asyncio.create_task(tls.keep_up(config.ssl), name="tls")
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    told = asyncio.create_task(ending.wait(), name="told")
    try:
        await asyncio.wait({serving, told, *process.loops.tasks}, return_when=asyncio.FIRST_COMPLETED)
        ending.begin()
        await process.drain()
        server.should_exit = True
        await ending.allow(serving)
        if not serving.done():
            await process.dismiss()
            await asyncio.wait({serving}, timeout=_FAREWELL_S)
            server.drop_everybody()
        await serving
    finally:
        await end_tasks(told, serving, *([] if renewing is None else [renewing]))


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves signals to `Ending`."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def drop_everybody(self) -> None:
        """Hang up, on those without an answer and on those who are slow to read theirs."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self.force_exit = True
