"""Results and reports to the disk: whole or not at all, whatever ends the process or the machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from service.core.errors import InvalidOption, NotFound

_NONE_CAN_BE_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def ends_everything(error: OSError) -> bool:
    """Whether the next result could not be written either, so that it is not worth restoring."""
    return error.errno in _NONE_CAN_BE_WRITTEN


def write_result(path: Path, data: bytes) -> None:
    """Write a file under another name, bring it to the disk, then give it its name.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    with replacing(path) as file:
        file.write(data)


def check_report(report: Path | None) -> None:
    """Refuse a place for a report that cannot be meant: before the work that it tells of, not after it.

    Args:
        report: The file, `-` for standard output; None for no report.

    Raises:
        NotFound: Its folder is not there.
        InvalidOption: Nothing can be written there.
    """
    if report is None or str(report) == "-":
        return
    if not report.parent.is_dir():
        raise NotFound(f"{report.parent} is no folder for the report")
    if report.is_dir():
        raise InvalidOption(f"{report} is a folder", hint="name a file for the report")
    folder = Path(os.path.realpath(report)).parent
    if not _is_device(report) and not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidOption(f"{report}: you may not write to its folder", hint="choose another place for the report")


def write_report(report: Path, write: Callable[[TextIO], object]) -> None:
    """Write a report where `check_report` allows it; one that is there is kept until the new one is whole.

    Raises:
        OSError: It cannot be written.
    """
    if str(report) == "-":
        write(sys.stdout)
    elif _is_device(report):
        with report.open("w") as out:
            write(out)
    else:
        with replacing(Path(os.path.realpath(report))) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
            write(text)
            text.detach()


def _is_device(path: Path) -> bool:
    """Whether it is there and no file that can be replaced, such as a pipe."""
    return os.path.exists(path) and not os.path.isfile(path)


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
