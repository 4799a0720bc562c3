"""A place with photos in, its photos out: lazily, one listing at a time, with the results that are there already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from service.archive.places import Entry, Place
from service.batch.items import Item
from service.core.errors import InvalidOption, NotFound
from service.core.suffixes import SUFFIXES, result_names
from service.core.types import OutputFormat
from service.local.tree import OnUnreadable


@dataclass(slots=True)
class PlacePair:
    """Where photos are, and where results go, one of them at least in an object store: the same tree below.

    Attributes:
        source: Of the photos.
        target: Of the results.
        output_format: Encoding of the results, or None for each photo's own.
    """

    source: Place
    target: Place
    output_format: OutputFormat | None
    _sizes: dict[str, int] = field(default_factory=dict)  # of the results in the folder that is being walked

    def check(self) -> None:
        """Refuse places that cannot be meant.

        Raises:
            NotFound: There is no such source.
            InvalidOption: Results would lie among the photos.
            OSError: The store does not answer.
        """
        if not self.source.is_folder():
            raise NotFound(f"{self.source.root} is no folder")
        if self.target.holds(self.source):
            raise InvalidOption(
                f"{self.target.root} has the photos in it",
                hint="choose another place for the results: none is overwritten",
            )

    def items(self, on_unreadable: OnUnreadable) -> Iterator[Item]:
        """Every photo, folder by folder in the order of names; the place of the results is left out.

        Args:
            on_unreadable: Told of folders that cannot be listed.
        """
        for below, photos, folders in self._folders(on_unreadable):
            target = PurePosixPath(self.target.root, below)
            self._sizes = {f"{target}/{entry.name}": entry.size_bytes for entry in self.target.listing(str(target))[0]}
            results = result_names((photo.name for photo in photos), self.output_format, folders)
            for photo, result in zip(photos, results, strict=True):
                yield Item(
                    str(PurePosixPath(below, photo.name)),
                    Path(self.source.root, below, photo.name),
                    Path(target, result),
                    photo.size_bytes,
                    photo.mtime_ns,
                )

    def counts(self) -> Iterator[int]:
        """How many photos there are now, folder by folder."""
        return (len(photos) for _, photos, _ in self._folders(lambda _path, _error: None))

    def result_bytes(self, target: Path) -> int | None:
        """Size of a result, or None without one; only of items of the folder that is being walked."""
        return self._sizes.get(target.as_posix())

    def _folders(self, on_unreadable: OnUnreadable) -> Iterator[tuple[str, list[Entry], list[str]]]:
        """Every folder with its photos and the names of its folders; only such with photos."""
        waiting = [""]
        while waiting:
            below = waiting.pop()
            here = str(PurePosixPath(self.source.root, below))
            try:
                entries, folders = self.source.listing(here)
            except OSError as error:
                on_unreadable(Path(here), error)
                continue
            inner = [str(PurePosixPath(below, name)) for name in reversed(folders)]
            waiting += [name for name in inner if not self.target.holds(Place(self.source.files, self._root(name)))]
            photos = [entry for entry in entries if os.path.splitext(entry.name)[1].lower() in SUFFIXES]
            if photos:
                yield below, photos, folders

    def _root(self, below: str) -> str:
        return str(PurePosixPath(self.source.root, below))
