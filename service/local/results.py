"""Results to the disk: whole or not at all, whatever ends the process or the machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_result(path: Path, data: bytes) -> None:
    """Write a file under another name, bring it to the disk, then give it its name.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file under another name; at the end of the block it is brought to the disk and gets its name.

    Whatever goes wrong in the block, nothing is left of it, and a file that was there before stays.

    Raises:
        OSError: It cannot be written.
    """
    # Named by a digest: with anything added, the longest names would be too long.
    partial = path.with_name(f".{hashlib.blake2b(os.fsencode(path.name), digest_size=16).hexdigest()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[BinaryIO]:
    """The file, empty, and nobody else's meanwhile: who writes the same result waits until it has its name."""
    while True:
        with partial.open("ab") as file:
            with contextlib.suppress(OSError):  # some network file systems know no locks; nobody else writes, as a rule
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(partial, file):
                file.truncate(0)  # a crash may have left something
                yield file
                return


def _is_at(path: Path, file: BinaryIO) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
