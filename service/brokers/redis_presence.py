"""Whether any worker of a queue is alive: a key that each of them renews, and that ends by itself after a lease."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from service.brokers.keys import QueueKeys
from service.brokers.redis_connection import RedisConnection, as_ms
from service.core.errors import DependencyUnavailable
from service.core.tasks import pause

_RENEWALS_PER_LEASE = 4
_LOOK_TIMEOUT_S = 1.0


class Presence:
    """Workers announce themselves, gateways look.

    Args:
        url: `redis://`, `rediss://` or `unix://` address of the server.
        prefix: Of every key; gateways and workers that share a queue share it.
        lease_s: Seconds of silence after which a worker counts as gone.

    Raises:
        ValueError: The address is not one.
    """

    def __init__(self, url: str, *, prefix: str, lease_s: float) -> None:
        self._key = QueueKeys(prefix, "faces").workers
        self._lease_s = lease_s
        self._connection = RedisConnection(url)

    async def announce(self, stop: asyncio.Event, *, can_work: Callable[[], Awaitable[bool]]) -> None:
        """Say until `stop` is set that a worker is alive, while it can work; go on while the server does not answer."""
        while not stop.is_set():
            if await can_work():
                with contextlib.suppress(DependencyUnavailable):
                    await self._connection.put(self._key, b"", ttl_ms=as_ms(self._lease_s))
            await pause(self._lease_s / _RENEWALS_PER_LEASE, stop)

    async def anybody(self) -> bool | None:
        """Whether a worker has been alive during the last lease; None when the server does not say within a second."""
        with contextlib.suppress(TimeoutError, DependencyUnavailable):
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                return await self._connection.exists(self._key)
        return None

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()
