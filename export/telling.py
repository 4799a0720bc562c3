"""How a long export is told: a line for each part that is done, and on a terminal a bar with the time left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Say = Callable[[str], None]


def say(line: str) -> None:
    """Write a line to standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def telling(what: str, parts: int, console: Console | None = None) -> Iterator[Say]:
    """A function that writes a line, each of which is one of `parts` done.

    Args:
        what: Name of the work.
        parts: How many lines there will be.
        console: For bar and lines; standard output by default.
    """
    shown = console or Console()
    if not shown.is_terminal:
        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=shown, transient=True) as progress:
        task = progress.add_task(what, total=parts)

        def say_above_the_bar(line: str) -> None:
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)

        yield say_above_the_bar
