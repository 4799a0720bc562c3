"""Results to the disk: whole or not at all, whatever ends the process or the machine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_NONE_CAN_BE_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def write_result(path: Path, data: bytes) -> None:
    """Write a file under another name, bring it to the disk, then give it its name.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    # Named by a digest: with anything added, the longest names would be too long.
    partial = path.with_name(f".{hashlib.blake2b(os.fsencode(path.name), digest_size=16).hexdigest()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(partial) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[BinaryIO]:
    """The file, empty, and nobody else's meanwhile: who writes the same result waits until it has its name."""
    while True:
        with partial.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(partial, file):
                file.truncate(0)  # a crash may have left something
                yield file
                return


def _is_at(path: Path, file: BinaryIO) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def ends_everything(error: OSError) -> bool:
    """Whether the next result could not be written either, so that it is not worth restoring."""
    return error.errno in _NONE_CAN_BE_WRITTEN


async def to_the_end(
    function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> tuple[T, asyncio.CancelledError | None]:
    """Run something in a thread, and wait for its end though this task is cancelled meanwhile.

    Returns:
        What the function returns, and the cancellation, which the caller raises when it has told of what was done.

    Raises:
        Exception: What the function raises, also if this task was cancelled meanwhile.
    """
    running = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    return running.result(), cancelled
