"""A batch from folder to report: what is left to do goes through an engine, what it did into the journal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import IO, Protocol, TypeVar

from service.batch.items import Engine, Item
from service.batch.journal import Journal, State
from service.batch.results import to_the_end
from service.batch.telling import BatchTelling
from service.core.tasks import beside
from service.local.tree import OnUnreadable

T = TypeVar("T")
_REMIND_S = 1.0


class Photos(Protocol):
    """Where photos are, and where their results go."""

    def items(self, on_unreadable: OnUnreadable) -> Iterator[Item]:
        """Every photo, in the same order each time."""
        ...

    def counts(self) -> Iterator[int]:
        """How many photos there are now, folder by folder."""
        ...


async def run_batch(
    folders: Photos, journal: Journal, engine: Engine, telling: BatchTelling, *, retry_failed: bool = False
) -> None:
    """Do what earlier runs have left.

    Args:
        folders: Where the photos are and the results go.
        journal: Knows what was done, and is told what is.
        engine: Restores.
        telling: Told how it goes.
        retry_failed: Do photos again, too, for which trying again does not help.

    Raises:
        RestorationError: The engine cannot go on.
        OSError: Results or journal cannot be written any more.
    """
    ended = threading.Event()
    counts = _count(folders, telling, ended)
    async with beside(counts, "count photos") as counting, beside(_remind(telling), "remind"):
        try:
            todo = _left_to_do(folders, journal, telling, ended, retry_failed=retry_failed)
            async with contextlib.aclosing(engine.run(todo)) as outcomes:
                async for outcome in outcomes:
                    _, cancelled = await to_the_end(journal.note, outcome)
                    telling.tell(outcome)
                    if cancelled is not None:
                        raise cancelled
            await counting
        finally:
            ended.set()
    telling.models(journal.models())


def write_report(journal: Journal, out: IO[str]) -> None:
    """One line of JSON per photo, with all that holds of it from this run and those before."""
    for entry in journal.entries():
        out.write(json.dumps(entry) + "\n")


async def _count(folders: Photos, telling: BatchTelling, ended: threading.Event) -> None:
    telling.found(await asyncio.to_thread(lambda: sum(_until(ended, folders.counts()))))


async def _remind(telling: BatchTelling) -> None:
    """How far the batch is is said, too, while no photo ends: earlier runs' are passed over, or the service is away."""
    while True:
        await asyncio.sleep(_REMIND_S)
        telling.remind()


def _left_to_do(
    folders: Photos, journal: Journal, telling: BatchTelling, ended: threading.Event, *, retry_failed: bool
) -> Iterator[Item]:
    for item in _until(ended, folders.items(telling.unreadable_folder)):
        state = journal.state_of(item)
        if state is State.RESTORED or (state is State.FAILED and not retry_failed):
            telling.passed_over(failed=state is State.FAILED)
        else:
            yield item
    if not ended.is_set() and not telling.unreadable_folders:
        journal.forget_others()


def _until(ended: threading.Event, found: Iterator[T]) -> Iterator[T]:
    """What is found before the run ends: its end waits for the thread that looks."""
    for one in found:
        if ended.is_set():
            return
        yield one
