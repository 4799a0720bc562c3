"""Photographs in folders and in tar shards, decoded when they are asked for.

A shard is a plain tar archive, webdataset's kind included. Its index is read once, and a photograph is then read at its
place, so that any batch can be drawn from (seed, index) alone: a stream through the shards would have to be replayed to
resume a run exactly.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

U8Image = npt.NDArray[np.uint8]
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of a picture lie; `name` is what messages call it."""

    path: Path
    name: str
    offset: int
    size_bytes: int


class Photographs(Sequence[U8Image]):
    """Square pictures of the tar shards (`*.tar`), then of the image files, each sorted by path.

    An item is an (S, S, 3) uint8 RGB array, S as stored; it raises ValueError for a picture that is not square.

    Args:
        root: Folder with shards or pictures.
        pattern: Glob on their paths below it; `**/*.png` descends into folders.

    Raises:
        FileNotFoundError: There is no picture.
        ValueError: A shard is no tar archive.
    """

    def __init__(self, root: Path, pattern: str = "*") -> None:
        paths = sorted(root.glob(pattern))
        self._places = [place for path in paths if path.suffix == ".tar" for place in _members(path)]
        files = [path for path in paths if path.suffix.lower() in _SUFFIXES]
        self._places += [_Place(path, str(path), 0, path.stat().st_size) for path in files]
        if not self._places:
            raise FileNotFoundError(f"no pictures match {root / pattern}")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> U8Image:  # type: ignore[override]  # no slices: nobody needs them
        place = self._places[index]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.size_bytes)
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width != image.height:
                raise ValueError(f"{place.name} has {image.width} x {image.height} pixels; training takes square crops")
            return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _members(shard: Path) -> Iterator[_Place]:
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isfile() and Path(member.name).suffix.lower() in _SUFFIXES:
                    yield _Place(shard, f"{shard}:{member.name}", member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{shard} is no uncompressed tar archive: {error}") from error
