"""What every run over files shows: a bar with the time left on a terminal, lines above it, the sum at its end."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.core.printable import printable


class RunTelling:
    """A bar on a terminal, lines above it, and the sum at the end. A context manager.

    Args:
        console: Where to write.
        counts: What of the bar says how many photos there are.
        total: Number of photos, or None before it is known.
    """

    def __init__(self, console: Console, counts: ProgressColumn, total: int | None) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("restoring"),
            BarColumn(),
            counts,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("restoring", total=total, shown="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_ended: object) -> None:
        """Take the bar away and say the sum."""
        self._bar.stop()
        self.say(self._sum())

    def say(self, line: str) -> None:
        """Write a line above the bar; names of files cannot end it, nor tell the terminal anything."""
        self._bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def _sum(self) -> str:
        raise NotImplementedError
