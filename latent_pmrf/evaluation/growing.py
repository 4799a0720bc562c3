"""Scores on disk as soon as there are some: a run that is killed, or fails later, leaves what it has measured.

rows ─► OUT/faces.partial.csv, as they come ─► removed when OUT holds the whole report
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

PARTIAL = "faces.partial.csv"


class GrowingTable:
    """A CSV that grows with one run and no other; a context manager, at whose end without an error it is removed.

    What an earlier run has left is removed at the beginning, so that rows of two runs never meet.

    Args:
        out_dir: Folder of the report; it is made with the first rows, so that a run that measures nothing leaves none.
    """

    def __init__(self, out_dir: Path) -> None:
        self._path = out_dir / PARTIAL
        self._file: TextIO | None = None
        self._writer: csv.DictWriter[str] | None = None

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None:
            self._path.unlink(missing_ok=True)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows of the same keys, now and not when a buffer is full."""
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", newline="", encoding="utf-8")
            self._writer = csv.DictWriter(self._file, fieldnames=list(rows[0]))
            self._writer.writeheader()
        self._writer.writerows(rows)
        if self._file is not None:
            self._file.flush()
