"""Results to the disk: whole or not at all, whatever ends the process or the machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path

_NONE_CAN_BE_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def write_result(path: Path, data: bytes) -> None:
    """Write a file under another name, bring it to the disk, then give it its name.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    # Named by a digest: with anything added, the longest names would be too long.
    partial = path.with_name(f".{hashlib.blake2b(os.fsencode(path.name), digest_size=16).hexdigest()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def ends_everything(error: OSError) -> bool:
    """Whether the next result could not be written either, so that it is not worth restoring."""
    return error.errno in _NONE_CAN_BE_WRITTEN
