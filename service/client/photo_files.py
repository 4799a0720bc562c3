"""A photo by its bytes or its path in, bytes out; a file above the service's limit is not read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from service.client.errors import RestorationError
from service.client.results import ImageSource


async def read_photo(image: ImageSource, max_upload_bytes: int) -> bytes:
    """The bytes of a photo; a file is read in a thread.

    Raises:
        OSError: The file cannot be read.
        RestorationError: It is larger than the limit; the code is the service's.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        _check(memoryview(image).nbytes, max_upload_bytes)
        return bytes(image)
    return await asyncio.to_thread(_read, Path(image), max_upload_bytes)


def _read(path: Path, max_upload_bytes: int) -> bytes:
    with path.open("rb") as file:
        _check(path.stat().st_size, max_upload_bytes)
        image = file.read(max_upload_bytes + 1)  # it may have grown
    _check(len(image), max_upload_bytes)
    return image


def _check(size_bytes: int, max_upload_bytes: int) -> None:
    if size_bytes > max_upload_bytes:
        raise RestorationError(
            f"{size_bytes} bytes; the limit is {max_upload_bytes}",
            code="upload_too_large",
            title="The upload is too large",
            hint="send a smaller file",
            values={"max_upload_bytes": max_upload_bytes},
        )
