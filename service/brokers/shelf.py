"""Things that have ended, in memory, for a while: bounded in bytes and number, gone after their time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    thing: T
    size_bytes: int
    expires_s: float


class Shelf(Generic[T]):
    """Keeps things by key; the oldest go first when the budget is spent. Used within one event loop.

    Args:
        ttl_s: How long a thing stays.
        max_bytes: Budget of all together.
        max_things: Most of them, whatever their size.
        clock: Unix time in seconds.
        on_gone: Told about every thing that leaves by itself.
    """

    def __init__(
        self,
        *,
        ttl_s: float,
        max_bytes: int,
        max_things: int,
        clock: Callable[[], float],
        on_gone: Callable[[T], None],
    ) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._max_things = max_things
        self._clock = clock
        self._on_gone = on_gone
        self._held: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """How much of the budget is spent."""
        return self._held_bytes

    def fits(self, size_bytes: int) -> bool:
        """Whether a thing of this size is below the budget at all."""
        return size_bytes <= self._max_bytes

    def next_expiry_s(self) -> float:
        """Unix time at which a thing that is put now will be gone."""
        return self._clock() + self._ttl_s

    def put(self, key: str, thing: T, size_bytes: int) -> None:
        """Keep a thing that fits; it takes the place of another one of its key."""
        self.take(key)
        while self._held and (self._held_bytes + size_bytes > self._max_bytes or len(self._held) >= self._max_things):
            self._drop_oldest()
        self._held[key] = _Entry(thing, size_bytes, self.next_expiry_s())
        self._held_bytes += size_bytes
        self._plan_expiry()

    def drop_expired(self) -> None:
        """Let go of what has stayed long enough; whoever looks or takes does so first."""
        # Insertion order is order of expiry: every thing stays equally long.
        now_s = self._clock()
        while self._held and next(iter(self._held.values())).expires_s <= now_s:
            self._drop_oldest()

    def get(self, key: str) -> T | None:
        """Look at a thing; None when it is not there any more."""
        self.drop_expired()
        entry = self._held.get(key)
        return None if entry is None else entry.thing

    def take(self, key: str) -> T | None:
        """Take a thing away without `on_gone` being told; None when it is not there any more."""
        self.drop_expired()
        entry = self._held.pop(key, None)
        if entry is None:
            return None
        self._held_bytes -= entry.size_bytes
        return entry.thing

    def close(self) -> None:
        """Stop the timer; what is there stays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop_oldest(self) -> None:
        _, entry = self._held.popitem(last=False)
        self._held_bytes -= entry.size_bytes
        self._on_gone(entry.thing)

    def _plan_expiry(self) -> None:
        """Set one timer for the oldest thing: these are people's photos, expiry must not wait for the next visitor."""
        if self._timer is None and self._held:
            wait_s = max(0.0, next(iter(self._held.values())).expires_s - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.drop_expired()
        self._plan_expiry()
