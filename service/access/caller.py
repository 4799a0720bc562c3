"""Who asks, and how much he may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """How often.

    Attributes:
        per_s: Requests a second in the long run, above 0.
        burst: Requests at once after a pause, at least 1.
    """

    per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class Quota:
    """How much.

    Attributes:
        face_px: Pixels of photos times faces restored in them, in one window; at least 1.
        window_s: Seconds from the first photo until everything is granted anew, above 0.
    """

    face_px: int
    window_s: float


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        owner: Name under which jobs belong to him, and rate and quota are counted; empty where no keys are asked for.
        key_id: Which of his keys he has shown.
        rate: How often he may ask; None: as often as he likes.
        quota: How much he may ask for; None: as much as he likes.
    """

    owner: str = ""
    key_id: str = ""
    rate: Rate | None = None
    quota: Quota | None = None


ANYBODY = Caller()
"""Everybody, where no keys are asked for."""
