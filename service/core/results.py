"""Finished restorations for a while: bounded in bytes, gone after their time, deleted on request."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.core.errors import NotFound
from service.core.types import Restoration

# A generous guess of a report's weight: tiny images must not fill the memory with reports.
_REPORT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A restoration that can be fetched.

    Attributes:
        restoration: Image bytes and report.
        expires_at_s: Unix time at which it is gone.
    """

    restoration: Restoration
    expires_at_s: float


class ResultStore:
    """Keeps results in memory; the oldest go first when the byte budget is spent.

    Args:
        ttl_s: How long a result can be fetched.
        max_bytes: Budget; 0 keeps nothing.
        clock: Unix time in seconds.
    """

    def __init__(self, *, ttl_s: float, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._held: OrderedDict[str, StoredResult] = OrderedDict()
        self._held_bytes = 0
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """How much of the budget is spent."""
        return self._held_bytes

    async def put(self, restoration: Restoration) -> StoredResult | None:
        """Keep a result; None when it alone is above the budget."""
        size_bytes = _size_bytes(restoration)
        if size_bytes > self._max_bytes:
            return None
        self._drop(restoration.report.id)
        while self._held_bytes + size_bytes > self._max_bytes:
            self._drop(next(iter(self._held)))
        stored = StoredResult(restoration, self._clock() + self._ttl_s)
        self._held[restoration.report.id] = stored
        self._held_bytes += size_bytes
        self._plan_expiry()
        return stored

    async def get(self, job_id: str) -> StoredResult:
        """Look a result up.

        Raises:
            NotFound: It never was, has expired, made room for newer ones or was deleted.
        """
        self._drop_expired()
        stored = self._held.get(job_id)
        if stored is None:
            raise NotFound("no such restoration", hint="results expire; see result_ttl_s in /v1/limits")
        return stored

    async def delete(self, job_id: str) -> None:
        """Forget a result now.

        Raises:
            NotFound: There is none.
        """
        await self.get(job_id)
        self._drop(job_id)

    def _drop(self, job_id: str) -> None:
        stored = self._held.pop(job_id, None)
        if stored is not None:
            self._held_bytes -= _size_bytes(stored.restoration)

    def _drop_expired(self) -> None:
        # Insertion order is order of expiry: every entry lives equally long.
        now_s = self._clock()
        while self._held:
            job_id, stored = next(iter(self._held.items()))
            if stored.expires_at_s > now_s:
                return
            self._drop(job_id)

    def _plan_expiry(self) -> None:
        """Set one timer for the oldest entry: these are people's photos, expiry must not wait for the next visitor."""
        if self._expiry is None and self._held:
            wait_s = max(0.0, next(iter(self._held.values())).expires_at_s - self._clock())
            self._expiry = asyncio.get_running_loop().call_later(wait_s, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self._drop_expired()
        self._plan_expiry()


def _size_bytes(restoration: Restoration) -> int:
    return len(restoration.data) + _REPORT_BYTES
