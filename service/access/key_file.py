"""The keys file in, the keys that are known now out; and the command's edits of it.

    {"keys": [{"id": "3f9c1d20", "name": "shop", "blake2b": "...", "requests_per_s": 5, "quota_face_px": 4000000000}]}

A running service reads it again when it has changed: keys come and go without a restart. A file that cannot be read or
understood changes nothing: the keys known before stay, and the log says so. Messages name an entry's place and what is
wrong with it, never its content.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from service.access.api_keys import KeyEntry, KeyRing

_LOOK_S = 1.0
_MAX_BYTES = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


class UnusableKeys(ValueError):
    """The keys file cannot be used; the message says why."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...] = ()


class _Version(NamedTuple):
    """What tells one content of the file from another; a mounted secret is replaced, not written to."""

    inode: int
    size_bytes: int
    mtime_ns: int


class KeyFile:
    """The keys of a file, as it is now.

    Args:
        path: The file.
        look_s: Seconds after which it is looked at again, when somebody asks.
        clock: Seconds, monotonic.

    Raises:
        UnusableKeys: It cannot be used: a service does not start open by mistake.
    """

    def __init__(self, path: Path, *, look_s: float = _LOOK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._look_s = look_s
        self._clock = clock
        self._version = _version_of(path)
        self._ring = KeyRing(read_entries(path))
        self._looked_s = clock()
        self._told = ""

    @property
    def ring(self) -> KeyRing:
        """The keys that are known."""
        if self._clock() - self._looked_s >= self._look_s:
            self._looked_s = self._clock()
            self._look()
        return self._ring

    def _look(self) -> None:
        try:
            version = _version_of(self._path)
            if version == self._version:
                return
            self._version = version
            self._ring = KeyRing(read_entries(self._path))
        except UnusableKeys as error:
            self._version = None  # tried again at the next look, whatever was in the way
            if str(error) != self._told:
                logger.error("the keys known before stay: %s", error)
            self._told = str(error)
        else:
            logger.warning("the keys file has changed and was read again")
            self._told = ""


def read_entries(path: Path) -> tuple[KeyEntry, ...]:
    """The entries of a keys file.

    Raises:
        UnusableKeys: It cannot be read or understood, or two entries have one id.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        entries = _File.model_validate_json(text).keys
        KeyRing(entries)
    except OSError as error:
        raise UnusableKeys(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UnusableKeys(f"{path}: {where}: {first['msg']}") from None
    except ValueError as error:
        raise UnusableKeys(f"{path}: {error}") from None
    return entries


@contextlib.contextmanager
def edited(path: Path) -> Iterator[list[KeyEntry]]:
    """The entries of a file, to be changed in the block and written back at its end; no other edit comes between.

    A file that is not there is made, for its owner's eyes alone. Readers see the old content or the new one.

    Raises:
        UnusableKeys: It cannot be read, understood or written.
    """
    try:
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = list(read_entries(path)) if path.exists() else []
            yield entries
            _write(path, tuple(entries))
    except OSError as error:
        raise UnusableKeys(f"{path} cannot be written: {error.strerror or error}") from error


def _write(path: Path, entries: tuple[KeyEntry, ...]) -> None:
    content = _File(keys=entries).model_dump(mode="json", exclude_defaults=True) or {"keys": []}
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.chmod(name, path.stat().st_mode & 0o777)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _version_of(path: Path) -> _Version | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return _Version(seen.st_ino, seen.st_size, seen.st_mtime_ns)
