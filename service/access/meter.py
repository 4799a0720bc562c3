"""What callers have used lately, by their names: in this process, or in Redis for all gateways together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from service.access.caller import Quota, Rate

MARK_S = 86400.0
"""How long it is remembered that something was charged already."""


@dataclass(frozen=True, slots=True)
class Passage:
    """The answer to a request.

    Attributes:
        wait_s: Seconds until the next request may come; 0 where this one may pass.
        left: Requests that may follow at once.
    """

    wait_s: float
    left: int = 0


@dataclass(frozen=True, slots=True)
class Spending:
    """The answer to a photo.

    Attributes:
        accepted: Whether it may be worked on.
        is_new: Whether it was charged now; not so for one that is refused, or was charged before.
        spent_face_px: What the window has seen, this photo included if it was charged.
        renews_s: Seconds until the window ends.
    """

    accepted: bool
    is_new: bool
    spent_face_px: int
    renews_s: float


@runtime_checkable
class Meter(Protocol):
    """Counts, by account.

    Every method raises DependencyUnavailable while the server behind it does not answer.
    """

    async def knock(self, account: str, rate: Rate) -> Passage:
        """Ask whether one more request may pass now, and count it if so (GCRA)."""
        ...

    async def spend(self, account: str, quota: Quota, face_px: int, mark: str = "") -> Spending:
        """Charge a photo, unless the window's quota is spent already.

        A window begins with its first photo. What is left when a photo comes need not suffice for it: the last photo of
        a window may go beyond the quota.

        Args:
            account: Whose.
            quota: How much he may spend.
            face_px: What the photo costs.
            mark: Stands for the photo; it is charged once, however often it is sent within a day. Empty: for no photo
                but this one.
        """
        ...

    async def correct(self, account: str, window_s: float, face_px: int, *, once: str = "", forget: str = "") -> None:
        """Add to what was spent, or take from it, down to nothing.

        Args:
            account: Whose.
            window_s: Length of the window that begins with this, if there is none.
            face_px: How much; below zero to take.
            once: Stands for this correction, which is made once, however often it is brought within a day.
            forget: A mark of `spend`: its photo may be charged again.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
