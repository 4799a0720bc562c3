"""What both in-memory queues do with their lanes: whose turn it is, and how soon there will be room."""

from __future__ import annotations

from service.core.admission import told_wait_s
from service.core.types import Lane

_INTERACTIVE_PER_BATCH = 4  # interactive entries handed out before a waiting batch entry has its turn
_NEWEST_WEIGHT = 0.2


class LaneTurns:
    """The interactive lane comes first; while it is busy, every fifth entry is of the batch lane."""

    def __init__(self) -> None:
        self._interactive_in_a_row = 0

    def next(self, *, interactive: bool, batch: bool) -> Lane | None:
        """Whose turn it is, given which lanes have something to hand out; None when neither has."""
        if interactive and not (batch and self._interactive_in_a_row >= _INTERACTIVE_PER_BATCH):
            return Lane.INTERACTIVE
        return Lane.BATCH if batch else None

    def taken(self, lane: Lane) -> None:
        """An entry of `lane` was handed out."""
        self._interactive_in_a_row = self._interactive_in_a_row + 1 if lane is Lane.INTERACTIVE else 0


class Pace:
    """How fast a queue is worked off lately."""

    def __init__(self) -> None:
        self._seconds_each = 1.0

    def note(self, stay_s: float, in_flight: int) -> None:
        """An entry was finished `stay_s` after it was taken, one of `in_flight` that were worked on side by side."""
        self._seconds_each += _NEWEST_WEIGHT * (stay_s / in_flight - self._seconds_each)

    def retry_after_s(self, excess: int) -> int:
        """When `excess` entries should have left, in whole seconds, at least 1."""
        return told_wait_s(self._seconds_each * excess)
