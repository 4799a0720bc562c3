"""How a batch is told: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import TextColumn

from service.batch.items import Outcome
from service.core.options import in_flags
from service.local.run_telling import RunTelling

_LINE_S = 10.0


class BatchTelling(RunTelling):
    """Tells failures as they come, how far the batch is, and the sum at the end. A context manager.

    Photos that are done already do not count: rate and time left are those of this run.

    Args:
        console: Where to write.
        clock: Seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, TextColumn("{task.fields[shown]}"), None)
        self._clock = clock
        self._begin_s = self._told_s = clock()
        self._found: int | None = None
        self.restored = 0
        self.failed = 0
        self.restored_before = 0
        self.failed_before = 0
        self.unreadable_folders = 0

    @property
    def all_restored(self) -> bool:
        """Whether every photo that was seen is restored, by this run or before."""
        return not (self.failed or self.failed_before or self.unreadable_folders)

    @property
    def nothing_found(self) -> bool:
        """Whether there is no photo at all."""
        return self._found == 0 and not self.unreadable_folders

    def found(self, photos: int) -> None:
        """Note how many photos there are in all."""
        self._found = photos
        self._show()

    def passed_over(self, *, failed: bool) -> None:
        """Note a photo that an earlier run has done. May be called in another thread."""
        if failed:
            self.failed_before += 1
        else:
            self.restored_before += 1

    def unreadable_folder(self, path: object, error: OSError) -> None:
        """Tell of a folder whose photos are not seen. May be called in another thread."""
        self.unreadable_folders += 1
        self.say(f"{path}: The folder cannot be read: {error.strerror or error}")

    def tell(self, outcome: Outcome) -> None:
        """Note one photo; failures are always told."""
        if outcome.error is None:
            self.restored += 1
        else:
            self.failed += 1
            hint = f" ({in_flags(str(outcome.error['hint']))})" if outcome.error.get("hint") else ""
            self.say(f"{outcome.item.source}: {outcome.error['title']}: {outcome.error['detail']}{hint}")
        self._show()
        self.remind()

    def models(self, models: Sequence[str]) -> None:
        """Tell of results of more than one model."""
        if len(models) > 1:
            self.say(f"the results are of several models ({', '.join(models)}): --report says which is of which")

    def remind(self) -> None:
        """Where there is no terminal, say how far the batch is, unless that was said lately."""
        if not self._console.is_terminal and self._clock() - self._told_s >= _LINE_S:
            self._told_s = self._clock()
            self.say(self._line())

    def _sum(self) -> str:
        parts = [f"{self.restored} restored", f"{self.failed} failed"]
        parts += [f"{self.restored_before} restored before"] if self.restored_before else []
        parts += [f"{self.failed_before} failed before (--retry-failed tries them again)"] if self.failed_before else []
        left = self._left()
        parts += [f"{left} not begun or not finished"] if left else []
        return f"{', '.join(parts)}, in {self._clock() - self._begin_s:.1f} s ({self._rate():.2f} photos/s)"

    def _show(self) -> None:
        total = None if self._found is None else max(self._done, self._found - self._before)
        shown = f"{self._done}/{'?' if total is None else total}  {self._rate():.2f} photos/s"
        self._bar.update(self._task, completed=self._done, total=total, shown=shown)

    def _line(self) -> str:
        left = self._left()
        words = f"{self._done} done, {self.failed} of them failed, {self._rate():.2f} photos/s"
        words += "" if self._done or not self._before else f", {self._before} done before"
        if left is None or self._rate() <= 0:
            return words
        return f"{words}, {left} left, {timedelta(seconds=round(left / self._rate()))} to go"

    def _left(self) -> int | None:
        return None if self._found is None else max(0, self._found - self._before - self._done)

    def _rate(self) -> float:
        """Photos per second of this run."""
        return self._done / max(1e-9, self._clock() - self._begin_s)

    @property
    def _done(self) -> int:
        return self.restored + self.failed

    @property
    def _before(self) -> int:
        return self.restored_before + self.failed_before
