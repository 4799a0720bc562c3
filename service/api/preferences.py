"""Prefer header in (RFC 7240), how long to wait for a job out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_RESPOND_ASYNC = "respond-async"
_WAIT = "wait"
_WAIT_DIGITS = 18  # more seconds than anybody waits, and still a number that can be reckoned with


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client prefers, as far as this service knows it.

    Attributes:
        respond_async: An answer at once, with the work still to be done.
        wait_s: How long the client would wait for the work to be done, in whole seconds, or None if it says nothing.
    """

    respond_async: bool = False
    wait_s: int | None = None

    def patience_s(self, longest_s: float) -> float:
        """How long to wait before the answer, at most `longest_s`."""
        if self.wait_s is not None:
            return min(float(self.wait_s), longest_s)
        return 0.0 if self.respond_async else longest_s

    def applied(self, longest_s: float, *, is_async: bool) -> str:
        """Value of Preference-Applied; empty when nothing was.

        Args:
            longest_s: As above; a longer wait was not granted.
            is_async: Whether the answer came before the work was done.
        """
        applied = [_RESPOND_ASYNC] if self.respond_async and is_async else []
        if self.wait_s is not None and self.wait_s <= longest_s:
            applied.append(f"{_WAIT}={self.wait_s}")
        return ", ".join(applied)


def parse_preferences(headers: Sequence[str]) -> Preferences:
    """Read every Prefer header of a request; what is unknown or malformed is ignored, the first of a kind counts."""
    found: dict[str, str] = {}
    for entry in ",".join(headers).split(","):
        name, _, value = entry.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get(_WAIT, "")
    return Preferences(_RESPOND_ASYNC in found, int(wait[:_WAIT_DIGITS]) if wait.isascii() and wait.isdigit() else None)
