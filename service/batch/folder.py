"""A folder in, its photos out, one after the other; of 100,000 files those of one folder's listing are in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.batch.items import Item
from service.core.errors import InvalidOption, NotFound
from service.core.suffixes import result_names
from service.core.types import OutputFormat
from service.local.tree import OnUnreadable, real, walk


@dataclass(frozen=True, slots=True)
class FolderPair:
    """Where photos are, and where results go: the same tree below, as `latent-pmrf restore` does it.

    Attributes:
        source: Folder of the photos.
        target: Folder of the results.
        output_format: Encoding of the results, or None for each photo's own.
    """

    source: Path
    target: Path
    output_format: OutputFormat | None

    def check(self) -> None:
        """Refuse folders that cannot be meant.

        Raises:
            NotFound: `source` is no folder.
            InvalidOption: Results would lie among the photos.
        """
        if not self.source.is_dir():
            raise NotFound(f"{self.source} is no folder")
        if real(self.source).is_relative_to(real(self.target)):
            raise InvalidOption(
                f"{self.target} has the photos in it", hint="choose another folder for the results: none is overwritten"
            )
        if os.path.lexists(self.target) and not self.target.is_dir():
            raise InvalidOption(f"{self.target} is no folder", hint="choose another place for the results")

    def items(self, on_unreadable: OnUnreadable) -> Iterator[Item]:
        """Every photo, folder by folder in the order of names; the folder of the results is left out.

        Args:
            on_unreadable: Told of folders that cannot be listed.

        Raises:
            InvalidOption: A link below the results leads back to the photos.
        """
        for source, target, names, folders in self._folders(on_unreadable):
            for name, result in zip(names, result_names(names, self.output_format, folders), strict=True):
                path = source / name
                size_bytes, mtime_ns = state_of(path)
                yield Item(path.relative_to(self.source).as_posix(), path, target / result, size_bytes, mtime_ns)

    def counts(self) -> Iterator[int]:
        """How many photos there are now, folder by folder."""
        return (len(names) for _, _, names, _ in self._folders(lambda _path, _error: None))

    def _folders(self, on_unreadable: OnUnreadable) -> Iterator[tuple[Path, Path, list[str], list[str]]]:
        """Every folder with its counterpart, and the names of its photos and folders; only such with photos."""
        photos, results = real(self.source), real(self.target)
        for folder, names, folders in walk(self.source, self.target, on_unreadable):
            target = self.target / folder.relative_to(self.source)
            landing = real(target)
            if landing.is_relative_to(photos) and not landing.is_relative_to(results):
                raise InvalidOption(f"{target} leads back to the photos", hint="choose another folder for the results")
            yield folder, target, names, folders


def state_of(path: Path) -> tuple[int, int]:
    """Size of a file, and when it was changed last, in nanoseconds; -1 if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1  # whoever reads it finds out why
    return found.st_size, found.st_mtime_ns
