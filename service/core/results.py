"""A finished restoration that can be fetched for a while."""

from __future__ import annotations

from dataclasses import dataclass

from service.core.types import Restoration


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A restoration that can be fetched.

    Attributes:
        restoration: Image bytes and report.
        expires_at_s: Unix time at which it is gone.
    """

    restoration: Restoration
    expires_at_s: float
