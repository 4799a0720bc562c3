"""Folders and object stores alike, through pyarrow's file systems: listed, read, written.

Local folders without pyarrow: it knows names in UTF-8 only, and files may have any.

A place is picklable: worker processes on other machines open it for themselves, with the credentials that they have.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from pyarrow import fs

from service.batch.folder import state_of
from service.core.errors import InvalidOption
from service.local.results import write_result
from service.local.tree import is_file, real

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

    @property
    def address(self) -> str:
        """The same for the same place, however it was given."""
        return str(real(Path(self.root))) if self.is_local else f"{self.files.type_name}://{self.root}"

    def is_folder(self) -> bool:
        """Whether it is there; a prefix of objects counts as a folder."""
        if self.is_local:
            return os.path.isdir(self.root)
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
        if self.is_local:
            return _local_listing(folder)
        if not _is_utf_8(folder):
            return [], []  # no store has a folder of such a name
        entries, folders = [], []
        for info in self.files.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
            if info.is_file:
                entries.append(Entry(info.base_name, _or_unknown(info.size), _or_unknown(info.mtime_ns)))
            elif info.type == fs.FileType.Directory:
                folders.append(info.base_name)
        return sorted(entries, key=lambda entry: entry.name), sorted(folders)

    def read(self, path: str, max_bytes: int) -> bytes:
        """At most that many bytes of a file.

        Raises:
            OSError: It cannot be read.
        """
        if self.is_local:
            with open(path, "rb") as local:
                return local.read(max_bytes)
        with self.files.open_input_stream(path, compression=None) as file:
            return bytes(file.read(max_bytes))

    def write(self, path: str, data: bytes) -> None:
        """Write a file, so that it is at its place whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        if self.is_local:
            write_result(Path(path), data)
            return
        if not _is_utf_8(path):
            raise OSError(errno.EILSEQ, "names in a store are UTF-8, and this one is not")
        if self.files.type_name in _WHOLE_OR_NOT_AT_ALL:
            self._put(path, data)
            return
        folder, _, _ = path.rpartition("/")
        self.files.create_dir(folder, recursive=True)
        partial = f"{folder}/.{uuid4().hex}.partial"
        self._put(partial, data)
        self.files.move(partial, path)

    def _put(self, path: str, data: bytes) -> None:
        with self.files.open_output_stream(path, compression=None) as file:
            file.write(data)


def _local_listing(folder: str) -> tuple[list[Entry], list[str]]:
    entries, folders = [], []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif is_file(entry):
                entries.append(Entry(entry.name, *state_of(Path(entry.path))))
    return sorted(entries, key=lambda entry: entry.name), sorted(folders)


def _is_utf_8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _or_unknown(value: int | None) -> int:
    return -1 if value is None else value
