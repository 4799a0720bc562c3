"""What a check has to say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"  #: it works, but not as well as it should
    FAILED = "failed"  #: photos are not restored, or not by what was configured
    SKIPPED = "skipped"  #: not configured, or what it needs has failed


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table.

    Attributes:
        check: What was looked at.
        verdict: How it ended.
        detail: What was found.
        remedy: What to do; empty where nothing need be done.
    """

    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""
