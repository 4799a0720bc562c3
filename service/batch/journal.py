"""What a batch has done, line by line on the disk, so that the next run does only the rest.

    {"journal": 1, "options": {"fidelity": 0.8}, "source": "/photos"}
    {"name": "a/b.jpg", "target": "a/b.jpg", "size_bytes": 9, "mtime_ns": 8, "status": "restored", "result_bytes": 7,
     "report": {...}}
    {"name": "c.jpg", ..., "status": "failed", "error": {"code": "corrupt_image", ...}}

Lines are only appended, each in one write; of a photo's lines the last one counts. A line that a crash has cut off is
dropped, and so is one that cannot be read: its photo is done again. Lines reach the disk within a second of the next
one; if a power cut takes the last ones, or a result that a line tells of, those photos are done again, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Self

from service.batch.items import Item, Outcome, photo_id

VERSION = 1
_SYNC_S = 1.0
_BEGINNING = b'{"journal":'


class UnusableJournal(ValueError):
    """The journal is not one this run can go on with; the message says why, and what to do."""


class State(Enum):
    """What is known of a photo."""

    NEW = "new"  #: nothing, or nothing that holds for the photo as it is now
    RESTORED = "restored"  #: its result is there
    FAILED = "failed"  #: trying again does not help
    FAILED_FOR_NOW = "failed for now"  #: the same photo may succeed another time


class _Noted(NamedTuple):
    state: State
    fingerprint: bytes  # of the photo and its target as they were
    result_bytes: int
    model: str | None  # that the result is of
    offset: int  # of the line
    is_seen: bool  # whether the photo was there in this run


class Journal:
    """A journal that this process writes. A context manager.

    Args:
        path: The file; made if it is not there.
        options: What all of its photos are restored with.
        target: Folder of the results.
        source: Where the photos are; another folder's would take the places of results of the same names. None does
            not look.
        moved: Photos that were elsewhere in earlier runs are there now.
        fresh: Forget what earlier runs have done.
        result_bytes: Size of the result at a target, or None without one; None looks at the disk.
        clock: Seconds, for the time between two syncs.

    Raises:
        UnusableJournal: The file belongs to another run, to other options or photos, or is something else.
        OSError: It cannot be written.
    """

    def __init__(  # noqa: PLR0913 - what a run sets, and what a store and the tests replace
        self,
        path: Path,
        options: Mapping[str, object],
        target: Path,
        *,
        source: str | None = None,
        moved: bool = False,
        fresh: bool = False,
        result_bytes: Callable[[Path], int | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._result_bytes = result_bytes or _size_of
        self._path = path
        self._target = target
        self._clock = clock
        self._synced_s = clock()
        self._noted: dict[bytes, _Noted] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        try:
            self._lock()
            self._recognise()
            if fresh:
                self._file.truncate(0)
            self._read(dict(options), source, moved=moved)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """It is open."""
        return self

    def __exit__(self, *_ended: object) -> None:
        """Bring everything to the disk."""
        self.close()

    def close(self) -> None:
        """Bring everything to the disk, and let go of the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def state_of(self, item: Item) -> State:
        """What is known of a photo as it is now; a result that is gone, or has another size, counts for nothing.

        What does not hold any more is forgotten. May be called in another thread.
        """
        key = bytes.fromhex(item.id)
        noted = self._noted.get(key)
        if noted is None:
            return State.NEW
        holds = noted.fingerprint == self._fingerprint(self._place_of(item), item.size_bytes, item.mtime_ns)
        if holds and noted.state is State.RESTORED:
            holds = self._result_bytes(item.target) == noted.result_bytes
        if not holds:
            del self._noted[key]
            return State.NEW
        self._noted[key] = noted._replace(is_seen=True)
        return noted.state

    def forget_others(self) -> None:
        """Forget the photos that were neither asked for nor noted in this run: they are not there any more."""
        for key in [key for key, noted in list(self._noted.items()) if not noted.is_seen]:
            del self._noted[key]

    def note(self, outcome: Outcome) -> None:
        """Add a line.

        Raises:
            OSError: It cannot be written.
        """
        item = outcome.item
        line: dict[str, Any] = {
            "name": item.name,
            "target": self._place_of(item),
            "size_bytes": item.size_bytes,
            "mtime_ns": item.mtime_ns,
        }
        if outcome.error is None:
            line |= {"status": "restored", "result_bytes": outcome.result_bytes, "report": outcome.report}
        else:
            line |= {"status": "failed", "error": dict(outcome.error)}
        offset = self._append(line)
        self._remember(line, offset, is_seen=True)
        if self._clock() - self._synced_s >= _SYNC_S:
            os.fsync(self._file.fileno())
            self._synced_s = self._clock()

    def entries(self) -> Iterator[dict[str, Any]]:
        """The last line of every photo, where it holds, in the order in which they were written."""
        with self._path.open("rb") as file:
            for offset in sorted(noted.offset for noted in list(self._noted.values())):
                file.seek(offset)
                yield json.loads(file.readline())

    def models(self) -> list[str]:
        """Those that the results are of, by name: more than one where the service was updated on the way."""
        return sorted({noted.model for noted in list(self._noted.values()) if noted.model is not None})

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnusableJournal(f"{self._path} is in use: another batch writes to this folder") from None

    def _recognise(self) -> None:
        """Refuse a file of somebody else before anything is cut off it."""
        self._file.seek(0)
        begins = self._file.read(len(_BEGINNING))
        if not _BEGINNING.startswith(begins):
            raise UnusableJournal(f"{self._path} is no journal of a batch: choose another file with --journal")

    def _read(self, options: dict[str, object], source: str | None, *, moved: bool) -> None:
        self._file.seek(0)
        offset, header, known = 0, None, None
        with open(self._file.fileno(), "rb", closefd=False) as lines:  # the one that is locked
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                entry = _parsed(line)
                if offset == 0:
                    header = entry
                    self._check(header, options)
                if entry is not None and "journal" in entry:
                    known = entry.get("source")
                elif entry is not None:
                    self._remember(entry, offset, is_seen=False)
                offset += len(line)
        if source is not None and known not in (None, source) and not moved:
            raise UnusableJournal(
                f"{self._target} has the results of {known}, not of {source}: choose another folder for the results, "
                "or, where those photos have moved, go on with --moved"
            )
        self._file.truncate(offset)  # what a crash has cut off
        self._file.seek(0, os.SEEK_END)
        if header is None or (source is not None and source != known):
            self._append({"journal": VERSION, "options": options, "source": source})  # the last such line counts

    def _check(self, header: dict[str, Any] | None, options: dict[str, object]) -> None:
        if header is None or header.get("journal") != VERSION:
            raise UnusableJournal(f"{self._path} is a journal of another release: begin anew with --fresh")
        if header.get("options") != options:
            raise UnusableJournal(
                f"{self._path} belongs to photos with other options ({_in_words(header.get('options'))}): "
                "choose another folder for the results, or begin anew with --fresh"
            )

    def _append(self, line: Mapping[str, Any]) -> int:
        """Write a line at the end; returns where it begins."""
        offset = self._file.tell()
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        written = self._file.write(data)
        if written != len(data):
            self._file.truncate(offset)
            self._file.seek(offset)
            raise OSError(f"{self._path}: the disk took {written} of {len(data)} bytes")
        return offset

    def _remember(self, line: Mapping[str, Any], offset: int, *, is_seen: bool) -> None:
        try:
            fingerprint = self._fingerprint(line["target"], line["size_bytes"], line["mtime_ns"])
            state = _state_in(line)
            key = bytes.fromhex(photo_id(line["name"]))
        except (KeyError, TypeError, AttributeError, ValueError):
            return  # nothing that we have written
        self._noted[key] = _Noted(state, fingerprint, line.get("result_bytes", 0), _model_in(line), offset, is_seen)

    def _place_of(self, item: Item) -> str:
        return item.target.relative_to(self._target).as_posix()

    @staticmethod
    def _fingerprint(place: str, size_bytes: int, mtime_ns: int) -> bytes:
        return hashlib.blake2b(os.fsencode(f"{size_bytes} {mtime_ns} {place}"), digest_size=8).digest()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _state_in(line: Mapping[str, Any]) -> State:
    if line["status"] == "restored":
        return State.RESTORED
    return State.FAILED_FOR_NOW if line["error"].get("retryable") else State.FAILED


def _model_in(line: Mapping[str, Any]) -> str | None:
    model = (line.get("report") or {}).get("model")
    return sys.intern(model) if isinstance(model, str) else None  # one name for a million photos


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _in_words(options: object) -> str:
    if not isinstance(options, dict):
        return "unknown"
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "none"
