"""A batch that is interrupted while a thread writes: what is done is in the journal before the journal is closed."""

import asyncio
import contextlib
import io
import json
import threading
import time

import pytest
from rich.console import Console

from service.batch import streaming
from service.batch.folder import FolderPair
from service.batch.items import Outcome
from service.batch.journal import Journal
from service.batch.results import to_the_end
from service.batch.run import run_batch, write_report
from service.batch.telling import BatchTelling
from service.client import Answer, Restored
from service.local.results import write_result

PATIENCE_S = 10


class Gate:
    """Holds a call in its thread until it is let go."""

    def __init__(self):
        self.reached, self.open = threading.Event(), threading.Event()

    def before(self, function):
        def held(*arguments):
            self.reached.set()
            assert self.open.wait(PATIENCE_S)
            return function(*arguments)

        return held

    @contextlib.asynccontextmanager
    async def cancelling(self, task):
        """The task is cancelled while the call is held, and ends no sooner than the call."""
        try:
            assert await asyncio.to_thread(self.reached.wait, PATIENCE_S)
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0.02)
            assert not task.done()
            yield
        finally:
            self.open.set()
            await asyncio.wait({task})


class WritingEngine:
    """Restores as `StreamingEngine` does, without a service."""

    async def run(self, items):
        for item in items:
            yield Outcome(item, 1, {"seed": 1})


class Client:
    """A service that answers at once."""

    async def restore_batch(self, photos, *, window):
        assert window == 1
        for photo in photos:
            yield Answer(photo.client_id, restored=Restored(b"result", "image/png", None))


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(b"x")
    return FolderPair(tmp_path / "in", tmp_path / "out", None)


async def interrupted(folders, journal, engine, gate):
    """Names in the report of a batch that was cancelled, and how many photos were told as restored."""
    telling, report = BatchTelling(Console(file=io.StringIO())), io.StringIO()
    task = asyncio.create_task(run_batch(folders, journal, engine, telling))
    async with gate.cancelling(task):
        pass
    assert task.cancelled()
    write_report(journal, report)
    return [json.loads(line)["name"] for line in report.getvalue().splitlines()], telling.restored


async def test_a_line_that_is_being_noted_is_in_journal_and_report(folders, tmp_path, monkeypatch):
    gate = Gate()
    with Journal(tmp_path / "j", {}, folders.target) as journal:
        monkeypatch.setattr(journal, "note", gate.before(journal.note))
        assert await interrupted(folders, journal, WritingEngine(), gate) == (["a.png"], 1)
    assert (tmp_path / "j").read_text().count("restored") == 1


async def test_a_result_that_is_being_written_is_in_journal_and_report(folders, tmp_path, monkeypatch):
    gate = Gate()
    monkeypatch.setattr(streaming, "write_result", gate.before(write_result))
    with Journal(tmp_path / "j", {}, folders.target) as journal:
        engine = streaming.StreamingEngine(Client(), {}, window=1)
        assert await interrupted(folders, journal, engine, gate) == (["a.png"], 1)
    assert [path.name for path in folders.target.iterdir()] == ["a.png"]


async def test_without_a_cancellation_there_is_none_to_raise():
    assert await to_the_end(divmod, 7, 2) == ((3, 1), None)
    with pytest.raises(ZeroDivisionError):
        await to_the_end(divmod, 7, 0)


async def test_what_goes_wrong_meanwhile_is_told():
    gate = Gate()
    task = asyncio.create_task(to_the_end(gate.before(divmod), 7, 0))
    async with gate.cancelling(task):
        pass
    assert isinstance(task.exception(), ZeroDivisionError)


class Archive:
    """Photos that earlier runs have done, more than anybody waits for."""

    def __init__(self, item):
        self.item = item
        self.until_s = time.monotonic() + PATIENCE_S
        self.looked_at = threading.Event()

    def items(self, on_unreadable):
        while time.monotonic() < self.until_s:
            yield self.item
            self.looked_at.set()

    def counts(self):
        while time.monotonic() < self.until_s:
            yield 1


def test_a_batch_that_passes_over_photos_ends_when_it_is_told_to(folders, tmp_path):
    item = next(folders.items(pytest.fail))
    archive = Archive(item)

    class Engine:
        async def run(self, items):
            yield await asyncio.to_thread(next, items)

    async def interrupt(journal):
        telling = BatchTelling(Console(file=io.StringIO()))
        task = asyncio.create_task(run_batch(archive, journal, Engine(), telling))
        assert await asyncio.to_thread(archive.looked_at.wait, PATIENCE_S)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    error = {"code": "c", "title": "t", "detail": "d", "hint": "", "retryable": False}
    with Journal(tmp_path / "j", {}, folders.target) as journal:
        journal.note(Outcome(item, error=error))
        begin_s = time.monotonic()
        asyncio.run(interrupt(journal))  # waits for its threads
        assert time.monotonic() - begin_s < PATIENCE_S / 2
