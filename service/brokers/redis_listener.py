"""News from other processes: one connection on which any number of waiters listen to channels.

    PUBLISH -> reader -> Ear.wait

Messages can be lost, when the connection is; who waits must look for itself now and then. After a new connection
everybody is woken once. A connection on which nothing comes back is given up: its server may have gone without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from redis import exceptions

from service.core.tasks import end_tasks, pause

PATIENCE_S = 1.0
_PAUSES_S = (0.05, 0.2, 0.5, 1.0)  # before the next attempt to connect; the last one again and again
_CONNECT_TIMEOUT_S = 5.0
_PING_S = 5.0  # without anything else to ask; what is asked is answered before as much again is over
_LOST = (exceptions.RedisError, OSError, TimeoutError)
_LOOK = b""  # the message that says only: look

logger = logging.getLogger(__name__)


class Ear:
    """One waiter, on one or more channels.

    Attributes:
        closed: Whether nothing will be heard any more.
    """

    def __init__(self) -> None:
        self.closed = False
        self._heard: deque[bytes] = deque()
        self._woken = asyncio.Event()

    async def wait(self, timeout_s: float) -> list[bytes]:
        """Messages since the last call; waits for one, at most `timeout_s`. An empty message means: look."""
        await pause(timeout_s, self._woken)
        self._woken.clear()
        heard = [*self._heard]
        self._heard.clear()
        return heard

    def tell(self, message: bytes) -> None:
        """Deliver a message."""
        self._heard.append(message)
        self._woken.set()


@dataclass(slots=True, eq=False)
class _Channel:
    """A channel that somebody wants.

    Attributes:
        ears: Who listens.
        kept: Whether to stay subscribed when nobody does.
        confirmed: Set while the server sends what is said there.
        missed: Whether something may have been said while there was no connection.
    """

    ears: set[Ear] = field(default_factory=set)
    kept: bool = False
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)
    missed: bool = False

    def tell(self, message: bytes) -> None:
        for ear in self.ears:
            ear.tell(message)


class Listener:
    """Keeps the connection and passes messages on.

    Args:
        make_connection: Makes a connection that is not open yet.
        ping_s: How often the server is asked at least.
    """

    def __init__(self, make_connection: Callable[[], Any], *, ping_s: float = _PING_S) -> None:
        self._make_connection = make_connection
        self._ping_s = ping_s
        self._channels: dict[str, _Channel] = {}
        self._wishes: asyncio.Queue[tuple[str, list[str]]] | None = None  # there while there is a connection
        self._reader: asyncio.Task[None] | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def listen(self, *names: str, patience_s: float = PATIENCE_S, keep: bool = False) -> AsyncIterator[Ear]:
        """Hear what is said on channels from now on; without a connection, begin all the same.

        Args:
            names: Of the channels.
            patience_s: Longest wait for the server to confirm.
            keep: Stay subscribed afterwards, for the next one who asks.
        """
        ear = Ear()
        ear.closed = self._closed
        if self._reader is None and not self._closed:
            # It outlives who came first: what it logs is about none of his requests.
            self._reader = asyncio.create_task(self._read(), name="listener", context=contextvars.Context())
        new = [name for name in names if name not in self._channels]
        channels = [self._channels.setdefault(name, _Channel()) for name in names]
        for channel in channels:
            channel.ears.add(ear)
            channel.kept |= keep
        try:
            self._wish("SUBSCRIBE", new)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if self._closed else patience_s):
                    for channel in channels:
                        await channel.confirmed.wait()
            yield ear
        finally:
            for channel in channels:
                channel.ears.discard(ear)
            left = [name for name in names if not (self._channels[name].ears or self._channels[name].kept)]
            for name in left:
                del self._channels[name]
            self._wish("UNSUBSCRIBE", left)

    async def close(self) -> None:
        """Wake every waiter for good, end the connection."""
        self._closed = True
        for channel in self._channels.values():
            channel.confirmed.set()
            for ear in channel.ears:
                ear.closed = True
                ear.tell(_LOOK)
        if self._reader is not None:
            await end_tasks(self._reader)

    def _wish(self, command: str, names: list[str]) -> None:
        if self._wishes is not None and names:
            self._wishes.put_nowait((command, names))

    async def _read(self) -> None:
        """Keep a connection; its two directions end together."""
        failures = 0
        while True:
            connection = self._make_connection()
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await connection.connect()
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(self._ask(connection), name="listener asks")
                    directions.create_task(self._hear(connection), name="listener hears")
            except* _LOST as lost:
                if not failures:
                    logger.warning("no news from the queue's server: %s", str(lost.exceptions[0]) or "it is silent")
            finally:
                self._wishes = None
                await connection.disconnect(nowait=True)
            for channel in self._channels.values():
                failures = 0 if channel.confirmed.is_set() else failures
                channel.missed = True
                channel.confirmed.clear()
            await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1

    async def _ask(self, connection: Any) -> None:  # noqa: ANN401 - redis has no public name for the type
        """Ask for every channel, then for what is wished, or for a sign of life."""
        wishes: asyncio.Queue[tuple[str, list[str]]] = asyncio.Queue()
        self._wishes = wishes
        self._wish("SUBSCRIBE", list(self._channels))
        while True:
            command, names = "PING", list[str]()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ping_s):
                    command, names = await wishes.get()
            await connection.send_command(command, *names, check_health=False)

    async def _hear(self, connection: Any) -> None:  # noqa: ANN401
        while True:
            async with asyncio.timeout(2 * self._ping_s):
                message = await connection.read_response(timeout=math.inf, push_request=True)
            if isinstance(message, list):  # else it is what RESP 3 answers to PING
                self._pass_on(message)

    def _pass_on(self, message: list[Any]) -> None:
        channel = self._channels.get(message[1].decode()) if message[1] is not None else None
        if channel is None:
            return
        if message[0] == b"message":
            channel.tell(message[2])
        elif message[0] == b"subscribe":
            channel.confirmed.set()
            if channel.missed:
                channel.missed = False
                channel.tell(_LOOK)
