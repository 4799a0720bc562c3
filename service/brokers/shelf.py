"""Things that have ended, in memory, for a while: bounded in bytes and number, gone after their time.

Who brings more than there is room for pushes out what is his own before that of others: room is made by the owner who
holds most.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.core.shares import Shares

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    thing: T
    owner: str
    size_bytes: int
    expires_s: float


class Shelf(Generic[T]):
    """Keeps things by key; the oldest of who holds most go first when the budget is spent. Used within one event loop.

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
        self._bytes = Shares(math.inf)
        self._keys: dict[str, OrderedDict[str, None]] = {}  # by owner
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """How much of the budget is spent."""
        return self._bytes.total

    def fits(self, size_bytes: int) -> bool:
        """Whether a thing of this size is below the budget at all."""
        return size_bytes <= self._max_bytes

    def next_expiry_s(self) -> float:
        """Unix time at which a thing that is put now will be gone."""
        return self._clock() + self._ttl_s

    def put(self, key: str, thing: T, size_bytes: int, owner: str = "") -> None:
        """Keep a thing that fits; it takes the place of another one of its key."""
        self.take(key)
        self._held[key] = _Entry(thing, owner, size_bytes, self.next_expiry_s())
        self._bytes.take(owner, size_bytes)
        self._keys.setdefault(owner, OrderedDict())[key] = None
        while self._bytes.total > self._max_bytes or len(self._held) > self._max_things:
            self._drop(self._first_to_go(but=key))
        self._plan_expiry()

    def drop_expired(self) -> None:
        """Let go of what has stayed long enough; whoever looks or takes does so first."""
        # Insertion order is order of expiry: every thing stays equally long.
        now_s = self._clock()
        while self._held and next(iter(self._held.values())).expires_s <= now_s:
            self._drop(next(iter(self._held)))

    def get(self, key: str) -> T | None:
        """Look at a thing; None when it is not there any more."""
        self.drop_expired()
        entry = self._held.get(key)
        return None if entry is None else entry.thing

    def take(self, key: str) -> T | None:
        """Take a thing away without `on_gone` being told; None when it is not there any more."""
        self.drop_expired()
        return self._remove(key) if key in self._held else None

    def close(self) -> None:
        """Stop the timer; what is there stays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _first_to_go(self, *, but: str) -> str:
        """The oldest thing, but this one, of the owner who has most of the budget or of the number."""
        newest = self._held[but].owner
        others = [owner for owner, keys in self._keys.items() if owner != newest or len(keys) > 1]
        return next(iter(self._keys[max(others, key=self._share_of)]))

    def _share_of(self, owner: str) -> float:
        return max(self._bytes.of(owner) / max(1, self._max_bytes), len(self._keys[owner]) / self._max_things)

    def _drop(self, key: str) -> None:
        self._on_gone(self._remove(key))

    def _remove(self, key: str) -> T:
        entry = self._held.pop(key)
        self._bytes.give_back(entry.owner, entry.size_bytes)
        del self._keys[entry.owner][key]
        if not self._keys[entry.owner]:
            del self._keys[entry.owner]
        return entry.thing

    def _plan_expiry(self) -> None:
        """Set one timer for the oldest thing: these are people's photos, expiry must not wait for the next visitor."""
        if self._timer is None and self._held:
            wait_s = max(0.0, next(iter(self._held.values())).expires_s - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.drop_expired()
        self._plan_expiry()
