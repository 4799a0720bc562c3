"""How a run over files is told: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.core.errors import NotFound
from service.core.options import in_flags
from service.core.printable import printable
from service.core.types import FaceStatus
from service.local.files import Outcome


class FileProgress:
    """Tells each outcome and, at the end, the sum.

    Args:
        console: Where to write.
        total: Number of photos.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._failed = 0
        self._begin_s = time.perf_counter()
        self._bar = Progress(
            TextColumn("restoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("restoring", total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away and say the sum."""
        self._bar.stop()
        seconds = time.perf_counter() - self._begin_s
        left = self._total - self._done
        parts = [f"{self._done - self._failed} restored", f"{self._failed} failed"]
        parts += [f"{left} not begun or not finished"] if left else []
        self._say(f"{', '.join(parts)}, in {seconds:.1f} s")

    def tell(self, outcome: Outcome) -> None:
        """Note one photo; failures are always told, successes where there is no bar."""
        self._done += 1
        if outcome.error is not None:
            self._failed += 1
            hint = f" ({in_flags(outcome.error.hint)})" if outcome.error.hint else ""
            # A file that cannot be read or written says so itself.
            title = "" if isinstance(outcome.error, NotFound) else f"{outcome.error.title}: "
            self._say(f"{outcome.task.source}: {title}{outcome.error.detail}{hint}")
        elif outcome.report is not None and not self._console.is_terminal:
            faces = sum(face.status is FaceStatus.RESTORED for face in outcome.report.faces)
            seconds = outcome.report.timings_ms["total"] / 1000
            self._say(f"{outcome.task.source} -> {outcome.task.target} (faces: {faces}, {seconds:.2f} s)")
        self._bar.advance(self._task)

    def _say(self, line: str) -> None:
        self._bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
