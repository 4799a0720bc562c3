"""What callers have used lately, in Redis: all gateways of a deployment count together, in one step each."""

from __future__ import annotations

import hashlib

from service.access.caller import Quota, Rate
from service.access.meter import MARK_S, Passage, Spending
from service.brokers.keys import MeterKeys
from service.brokers.redis_connection import RedisConnection, as_ms

_MARK_MS = round(MARK_S * 1000)


class RedisMeter:
    """Implements `service.access.meter.Meter` on Redis 6.2 or later, with the errors told there. Time is the server's.

    Args:
        url: `redis://`, `rediss://` or `unix://` address of the server.
        prefix: Of every key; gateways that count together share it.

    Raises:
        ValueError: The address is not one.
    """

    def __init__(self, url: str, *, prefix: str) -> None:
        self._connection = RedisConnection(url)
        self._keys = MeterKeys(prefix)

    async def knock(self, account: str, rate: Rate) -> Passage:
        """Let a request pass, or say how long it has to wait."""
        found = await self._connection.run("knock", [self._keys.rate(account)], [1e6 / rate.per_s, rate.burst])
        return Passage(found[0] / 1e6, found[1])

    async def spend(self, account: str, quota: Quota, face_px: int, mark: str = "") -> Spending:
        """Charge a photo, unless the quota is spent."""
        keys = [self._keys.spent(account), self._keys.photo(account, _digest(mark))]
        arguments = [face_px, quota.face_px, as_ms(quota.window_s), _MARK_MS if mark else ""]
        answer, spent_face_px, left_ms = await self._connection.run("spend", keys, arguments, again=False)
        return Spending(answer != b"spent", answer == b"charged", spent_face_px, left_ms / 1000)

    async def correct(self, account: str, window_s: float, face_px: int, *, once: str = "", forget: str = "") -> None:
        """Add to what was spent, or take from it."""
        keys = [
            self._keys.spent(account),
            self._keys.settled(account, _digest(once)),
            self._keys.photo(account, _digest(forget)),
        ]
        arguments = [face_px, as_ms(window_s), _MARK_MS if once else ""]
        await self._connection.run("correct", keys, arguments, again=bool(once))

    async def close(self) -> None:
        """Close every connection."""
        await self._connection.close()


def _digest(mark: str) -> str:
    return hashlib.blake2b(mark.encode(), digest_size=16).hexdigest()
