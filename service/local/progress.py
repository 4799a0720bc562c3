"""How files of this machine are told: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import MofNCompleteColumn

from service.core.errors import NotFound
from service.core.options import in_flags
from service.core.types import FaceStatus
from service.local.files import Outcome
from service.local.run_telling import RunTelling


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
