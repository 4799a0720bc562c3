"""How a run over files is told: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from service.core.errors import NotFound
from service.core.options import in_flags
from service.core.printable import printable
from service.core.types import FaceStatus

if TYPE_CHECKING:  # it knows the pipeline, which `service.batch` does without
    from service.local.files import Outcome


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


class FileProgress(RunTelling):
    """Tells each outcome and, at the end, the sum.

    Args:
        console: Where to write.
        total: Number of photos.
    """

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, MofNCompleteColumn(), total)
        self._total = total
        self._done = 0
        self._failed = 0
        self._begin_s = time.perf_counter()

    def tell(self, outcome: Outcome) -> None:
        """Note one photo; failures are always told, successes where there is no bar."""
        self._done += 1
        if outcome.error is not None:
            self._failed += 1
            hint = f" ({in_flags(outcome.error.hint)})" if outcome.error.hint else ""
            # A file that cannot be read or written says so itself.
            title = "" if isinstance(outcome.error, NotFound) else f"{outcome.error.title}: "
            self.say(f"{outcome.task.source}: {title}{outcome.error.detail}{hint}")
        elif outcome.report is not None and not self._console.is_terminal:
            faces = sum(face.status is FaceStatus.RESTORED for face in outcome.report.faces)
            seconds = outcome.report.timings_ms["total"] / 1000
            self.say(f"{outcome.task.source} -> {outcome.task.target} (faces: {faces}, {seconds:.2f} s)")
        self._bar.advance(self._task)

    def _sum(self) -> str:
        seconds = time.perf_counter() - self._begin_s
        left = self._total - self._done
        parts = [f"{self._done - self._failed} restored", f"{self._failed} failed"]
        parts += [f"{left} not begun or not finished"] if left else []
        return f"{', '.join(parts)}, in {seconds:.1f} s"
