"""Photographs in folders and in tar shards, decoded when they are asked for.

A shard is a plain tar archive, webdataset's kind included. Its index is read once, and a photograph is then read at its
place, so that any batch can be drawn from (seed, index) alone: a stream through the shards would have to be replayed to
resume a run exactly.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latent_pmrf.data.pictures import UnreadablePicture, is_resource_fork, read_rgb

U8Image = npt.NDArray[np.uint8]
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_FORMATS = ("JPEG", "PNG", "WEBP")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of a picture lie; `name` is what messages call it."""

    path: Path
    name: str
    offset: int
    size_bytes: int


class Photographs(Sequence[U8Image]):
    """Square pictures of the tar shards (`*.tar`), then of the image files, each sorted by path.

    An item is an upright (S, S, 3) uint8 RGB array, S as stored; it raises UnreadablePicture, with the picture's name,
    for one that is gone, cannot be decoded or is not square. What macOS writes beside a file (`._*`) is passed over.

    Args:
        root: Folder with shards or pictures.
        pattern: Glob on their paths below it; `**/*.png` descends into folders, linked ones included.
        without: Folder of which nothing is taken, whatever the pattern says and by whatever link it is reached.

    Raises:
        FileNotFoundError: There is no picture.
        ValueError: A shard is no tar archive.
    """

    def __init__(self, root: Path, pattern: str = "*", without: Path | None = None) -> None:
        found = [path for path in _matching(root, pattern) if not is_resource_fork(path)]
        paths = sorted(found if without is None else _outside(found, without))
        if len(paths) < len(found):
            _log.info("%s: passed over %d files in %s", root / pattern, len(found) - len(paths), without)
        shards = [path for path in paths if path.suffix == ".tar"]
        self._places = [place for path in shards for place in _members(path)]
        files = [path for path in paths if path.suffix.lower() in _SUFFIXES]
        _log.info(
            "%s: %d photographs in %d shards, and %d files", root / pattern, len(self._places), len(shards), len(files)
        )
        self._places += [_Place(path, str(path), 0, path.stat().st_size) for path in files]
        if not self._places:
            raise FileNotFoundError(f"no pictures match {root / pattern}")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> U8Image:  # type: ignore[override]  # no slices: nobody needs them
        place = self._places[index]
        try:
            with place.path.open("rb") as file:
                file.seek(place.offset)
                data = file.read(place.size_bytes)
        except OSError as error:  # it was there when the index was made
            raise UnreadablePicture(f"{place.name} cannot be read: {error.strerror}") from error
        picture = read_rgb(io.BytesIO(data), place.name, _FORMATS)
        if picture.width != picture.height:
            size = f"{picture.width} x {picture.height}"
            raise UnreadablePicture(f"{place.name} has {size} pixels; training takes square crops")
        return np.asarray(picture, dtype=np.uint8)


def _matching(root: Path, pattern: str) -> set[Path]:
    """What the pattern finds; `**` descends into linked folders too, into each real folder once."""
    before, recursive, after = pattern.partition("**/")
    if not recursive:
        return set(root.glob(pattern))
    starts = root.glob(before.rstrip("/")) if before else iter([root])
    return {path for start in starts for folder in _folders(start) for path in folder.glob(after)}


def _outside(paths: Sequence[Path], folder: Path) -> list[Path]:
    """The paths that do not lie in a folder, links followed."""
    inner = Path(os.path.realpath(folder))
    real = {parent: os.path.realpath(parent) for parent in {path.parent for path in paths}}
    places = (os.path.realpath(path) if path.is_symlink() else real[path.parent] for path in paths)
    return [path for path, place in zip(paths, places, strict=True) if not Path(place).is_relative_to(inner)]


def _folders(start: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, below, _ in os.walk(start, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to one that was seen, or to one that it lies in
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield Path(folder)


def _members(shard: Path) -> Iterator[_Place]:
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                path = Path(member.name)
                if member.isfile() and path.suffix.lower() in _SUFFIXES and not is_resource_fork(path):
                    yield _Place(shard, f"{shard}:{member.name}", member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{shard} is no uncompressed tar archive: {error}") from error
