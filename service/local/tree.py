"""A folder in, its photos out, one folder after the other; of many files those of one listing are in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from service.core.suffixes import SUFFIXES

OnUnreadable = Callable[[Path, OSError], None]


def walk(source: Path, results: Path, on_unreadable: OnUnreadable) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder with photos, and the names of its photos and of its folders, in the order of names.

    Links to files are followed, links to folders are not. A link that leads nowhere and is named as a photo is one:
    whoever reads it finds out why.

    Args:
        source: The outermost folder.
        results: Folder of the results, which is left out; it need not be there.
        on_unreadable: Told of folders that cannot be listed.
    """
    left_out = real(results)
    waiting = [source]
    while waiting:
        folder = waiting.pop()
        try:
            names, folders = _listing(folder)
        except OSError as error:
            on_unreadable(folder, error)
            continue
        below = [folder / name for name in folders]
        waiting += [inner for inner in reversed(below) if real(inner) != left_out]
        if names:
            yield folder, names, folders


def real(path: Path) -> Path:
    """Where a path leads; one that leads nowhere, such as a link to itself, as far as it does."""
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for such a link


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether a listing's entry is a file, or a link to one, or to nothing."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True  # such as a link to itself; whoever reads it finds out why


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the photos and of the folders in a folder."""
    names, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and is_file(entry):
                names.append(entry.name)
    return sorted(names), sorted(folders)
