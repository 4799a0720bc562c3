"""Folders and object stores alike, through pyarrow's file systems: listed, read, written.

A place is picklable: worker processes on other machines open it for themselves, with the credentials that they have.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from pyarrow import fs

from service.batch.results import write_result
from service.core.errors import InvalidOption

_WHOLE_OR_NOT_AT_ALL = {"s3", "gcs", "abfs"}  # an object is seen when its upload has ended, not before


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a listing.

    Attributes:
        name: Without its folder.
        size_bytes: Of the file; -1 if the store does not say.
        mtime_ns: When it was changed last; -1 likewise.
    """

    name: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in a file system.

    Attributes:
        files: The file system.
        root: Path of the folder in it.
    """

    files: fs.FileSystem
    root: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a path, or an address as `s3://bucket/photos`.

        Raises:
            InvalidOption: No file system is known by it.
        """
        if "://" not in text:
            return cls(fs.LocalFileSystem(), os.path.abspath(text))
        try:
            files, root = fs.FileSystem.from_uri(text)
        except (ValueError, OSError, NotImplementedError) as error:
            raise InvalidOption(
                f"{text}: {error}", hint="give a folder, or an address such as s3://BUCKET/PATH"
            ) from error
        return cls(files, root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return bool(self.files.type_name == "local")

    def is_folder(self) -> bool:
        """Whether it is there; a prefix of objects counts as a folder."""
        return bool(self.files.get_file_info(self.root).type == fs.FileType.Directory)

    def holds(self, other: Place) -> bool:
        """Whether the other place is this one, or inside it."""
        return bool(self.files.equals(other.files)) and Path(other.root).is_relative_to(self.root)

    def listing(self, folder: str) -> tuple[list[Entry], list[str]]:
        """Files of a folder and names of the folders in it, both by name; nothing of a folder that is not there.

        Links of a local folder to other folders are not followed.

        Raises:
            OSError: It cannot be listed.
        """
        entries, folders = [], []
        for info in self.files.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
            if info.is_file:
                entries.append(Entry(info.base_name, _or_unknown(info.size), _or_unknown(info.mtime_ns)))
            elif info.type == fs.FileType.Directory and not self._is_link(info.path):
                folders.append(info.base_name)
        return sorted(entries, key=lambda entry: entry.name), sorted(folders)

    def read(self, path: str, max_bytes: int) -> bytes:
        """At most that many bytes of a file.

        Raises:
            OSError: It cannot be read.
        """
        with self.files.open_input_stream(path, compression=None) as file:
            return bytes(file.read(max_bytes))

    def write(self, path: str, data: bytes) -> None:
        """Write a file, so that it is at its place whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        if self.is_local:
            write_result(Path(path), data)
        elif self.files.type_name in _WHOLE_OR_NOT_AT_ALL:
            self._put(path, data)
        else:
            folder, _, _ = path.rpartition("/")
            self.files.create_dir(folder, recursive=True)
            partial = f"{folder}/.{uuid4().hex}.partial"
            self._put(partial, data)
            self.files.move(partial, path)

    def _put(self, path: str, data: bytes) -> None:
        with self.files.open_output_stream(path, compression=None) as file:
            file.write(data)

    def _is_link(self, path: str) -> bool:
        return self.is_local and Path(path).is_symlink()


def _or_unknown(value: int | None) -> int:
    return -1 if value is None else value
