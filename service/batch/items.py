"""What is between the stages of a batch: a photo with its place, and what became of it.

    folder ──Item──► journal ──Item──► engine ──Outcome──► journal, progress ──► report

An engine restores and writes results wherever it runs; names, journal and report are the same for all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Item:
    """A photo of a folder.

    Attributes:
        name: Its path below the folder, with `/`.
        source: The photo.
        target: Where the result goes; its suffix decides the encoding.
        size_bytes: Of the photo; -1 if it cannot be looked at.
        mtime_ns: When the photo was changed last; -1 likewise.
    """

    name: str
    source: Path
    target: Path
    size_bytes: int
    mtime_ns: int

    @property
    def id(self) -> str:
        """A short name that is the same in every run, whatever characters the path has."""
        return photo_id(self.name)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a photo: a report, or an error; both as JSON.

    Attributes:
        item: The photo.
        result_bytes: Size of the result's file; 0 without one.
        report: Members as in HTTP's report, or None.
        error: `code`, `title`, `detail`, `hint`, `retryable`, or None.
    """

    item: Item
    result_bytes: int = 0
    report: Mapping[str, object] | None = None
    error: Mapping[str, object] | None = None


class Engine(Protocol):
    """Restores photos and writes the results."""

    def run(self, items: Iterator[Item]) -> AsyncGenerator[Outcome, None]:
        """Restore all of them, in any order.

        An outcome with a report is told only when its result is at its target, whole and on the disk. Nothing is
        written for a photo that fails.

        Args:
            items: Pulled no further than the engine has room, possibly in a thread.

        Raises:
            RestorationError: The engine cannot go on; photos without an outcome are as they were.
            OSError: No result can be written any more.
        """
        ...


def photo_id(name: str) -> str:
    """The id of the photo with this name."""
    return hashlib.blake2b(os.fsencode(name), digest_size=_ID_BYTES).hexdigest()


def unwritable(target: object, error: OSError) -> dict[str, object]:
    """What is told of a photo whose result cannot be written."""
    detail = f"{target} cannot be written: {error.strerror or error}"
    title = "The result is not written"
    return {"code": "unwritable", "title": title, "detail": detail, "hint": "", "retryable": True}
