"""What each owner holds of a room that all share, so that nobody shuts out the others."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator

from service.core.errors import QueueFull

OWNERS_SHARE = 0.5
"""Of a room that several owners use, what one of them may hold."""


class Shares:
    """Held amounts by owner; used within one event loop.

    Args:
        most: What a named owner may hold, or a single thing of any size; "" stands for all who have no name, and may
            hold anything.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """What all hold together."""
        return self._held.total()

    def of(self, owner: str) -> int:
        """What an owner holds."""
        return self._held[owner]

    def largest(self, comer: str) -> str:
        """Who holds most, counting one that the comer brings: he, where others hold as much. Something must be held."""
        return max(self._held, key=lambda owner: (self._held[owner] + (owner == comer), owner == comer))

    def allow(self, owner: str, more: int = 1) -> bool:
        """Whether an owner may hold so much more."""
        held = self._held[owner]
        return not owner or not held or held + more <= self._most

    def take(self, owner: str, amount: int = 1) -> None:
        """Let an owner hold more."""
        self._held[owner] += amount

    def give_back(self, owner: str, amount: int = 1) -> None:
        """Let an owner hold less; one that holds nothing is forgotten."""
        self._held[owner] -= amount
        if not self._held[owner]:
            del self._held[owner]

    @contextlib.contextmanager
    def held(self, owner: str, amount: int = 1) -> Iterator[None]:
        """Let an owner hold more for the duration of the block."""
        self.take(owner, amount)
        try:
            yield
        finally:
            self.give_back(owner, amount)


class Places:
    """A number of places, half of them at most for one named owner; used within one event loop.

    Args:
        most: How many there are, at least 1.
        things: What takes one, in the plural.
        hint: What to do where there is none.
    """

    def __init__(self, most: int, things: str, *, hint: str) -> None:
        self._most = most
        self._things = things
        self._hint = hint
        self._shares = Shares(math.ceil(OWNERS_SHARE * most))

    def check(self, owner: str) -> None:
        """See whether an owner may have a place.

        Raises:
            QueueFull: All are taken, or half of them by him.
        """
        if self._shares.total >= self._most:
            raise QueueFull(f"{self._most} {self._things} are open", hint=self._hint)
        if not self._shares.allow(owner):
            raise QueueFull(f"{self._shares.of(owner)} {self._things} of yours are open", hint=self._hint)

    def take(self, owner: str) -> None:
        """Give an owner a place.

        Raises:
            QueueFull: As of `check`.
        """
        self.check(owner)
        self._shares.take(owner)

    def give_back(self, owner: str) -> None:
        """Let an owner leave a place."""
        self._shares.give_back(owner)

    @contextlib.contextmanager
    def held(self, owner: str) -> Iterator[None]:
        """Give an owner a place for the duration of the block.

        Raises:
            QueueFull: As of `check`.
        """
        self.take(owner)
        try:
            yield
        finally:
            self.give_back(owner)
