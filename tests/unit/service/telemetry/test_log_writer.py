"""A log whose reader stands still: nobody who logs waits, and what is missing is counted and told."""

import contextlib
import io
import logging
import os
import re
import select
import subprocess
import sys
import threading
import time

import pytest

from service.core import tracing
from service.core.origin import Origin
from service.telemetry.log_writer import LogWriter
from service.telemetry.logs import JsonLines, TextLines

ORIGIN = Origin("req-1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
MOST_BYTES = 200_000
PIPE_BYTES = 64 * 1024
LONG_S = 30.0


LATE = """
import logging, sys
from service.core.settings import LogFormat
from service.telemetry.logs import write_logs
write_logs(LogFormat.TEXT)
logger = logging.getLogger("service.late")
for number in range({}):
    logger.info("line %d", number)
class Late:
    def __del__(self):
        logger.warning("late")
sys.modules["late"] = Late()
"""


class Pipe:
    """A pipe that somebody may read.

    Attributes:
        writer: Writes to it, and has room for `MOST_BYTES`.
        dropped: Grows with each line that is lost.
    """

    def __init__(self, formatter=None):
        self._reading, writing = os.pipe()
        self._read = bytearray()
        self.dropped = []
        self.writer = LogWriter(writing, most_bytes=MOST_BYTES)
        self.writer.on_drop = lambda: self.dropped.append(1)
        self.writer.setFormatter(formatter or logging.Formatter("%(message)s"))

    def read(self):
        """Read until nobody waits to write; returns all lines that were ever read."""
        until_s = time.monotonic() + LONG_S
        os.set_blocking(self._reading, False)
        while True:
            was_written = not self.writer._lines  # asked first: what is written after a look at the pipe is not read
            with contextlib.suppress(BlockingIOError):
                self._read += os.read(self._reading, PIPE_BYTES)
                continue
            if was_written:
                return self._read.decode().split("\n")[:-1]
            assert time.monotonic() < until_s
            time.sleep(0.001)

    def hang_up(self):
        if self._reading is not None:
            os.close(self._reading)
            self._reading = None

    def log(self, message, *arguments, error=None, **extra):
        exc_info = (type(error), error, error.__traceback__) if error is not None else None
        record = logging.LogRecord("service.test", logging.ERROR, "here.py", 1, message, arguments, exc_info)
        vars(record).update(extra)
        self.writer.handle(record)
        return record


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    made.hang_up()  # a thread that still waits goes on


def fill(pipe, lines=5000):
    """Log more than fits, numbered."""
    for number in range(lines):
        pipe.log("%06d %s", number, "x" * 100)
    return lines


def test_who_logs_does_not_wait_while_nobody_reads(pipe):
    begin_s = time.monotonic()
    logged = fill(pipe)
    assert time.monotonic() - begin_s < LONG_S  # else it would be for ever
    assert 0 < len(pipe.dropped) < logged
    assert pipe.writer._held_bytes <= MOST_BYTES


def test_once_read_again_what_waited_comes_whole_and_in_order_and_one_line_tells_how_much_is_missing(pipe):
    logged = fill(pipe)
    lost = len(pipe.dropped)
    *kept, told = pipe.read()
    assert kept == [f"{number:06d} {'x' * 100}" for number in range(logged - lost)]
    assert told == f"the log was not read: {lost} lines of it are missing here"
    pipe.log("after")
    assert pipe.read()[-1] == "after"
    assert len(pipe.dropped) == lost


def test_a_second_time_is_told_anew(pipe):
    fill(pipe)
    pipe.read()
    before = len(pipe.dropped)
    fill(pipe)
    told = [line for line in pipe.read() if line.startswith("the log")]
    assert [int(re.search(r"\d+", line)[0]) for line in told] == [before, len(pipe.dropped) - before]


def test_a_line_longer_than_all_the_room_is_written_where_nothing_waits(pipe):
    pipe.log("y" * (2 * MOST_BYTES))
    assert [len(line) for line in pipe.read()] == [2 * MOST_BYTES]
    assert pipe.dropped == []


@pytest.mark.parametrize("lines", [JsonLines(), TextLines()])
def test_lines_are_those_of_a_handler_that_waits(lines):
    """Request, trace and stage are the logging task's, and an exception keeps its traceback, though a thread writes."""
    pipe, stream = Pipe(lines), io.StringIO()
    at_once = logging.StreamHandler(stream)
    at_once.setFormatter(lines)
    try:
        raise ValueError("a\nb\udcff")
    except ValueError as caught:
        error = caught
    with tracing.within(ORIGIN), tracing.stage("decode"):
        at_once.handle(pipe.log("%s", "é", error=error, stack_info="Stack:\n  here", fields={"faces": 1}))
    told = pipe.read()
    pipe.hang_up()
    assert told == stream.getvalue().encode("utf-8", "backslashreplace").decode().split("\n")[:-1]
    assert "req-1" in told[0]
    assert "Traceback" in "".join(told)
    assert "decode" in told[0]


def test_a_record_that_has_no_form_is_told_instead_of_ending_who_logs(pipe):
    class Broken:
        def __str__(self):
            raise RuntimeError("no words")

    pipe.log("%s", Broken())
    first, *others = pipe.read()
    assert first == "a record of service.test cannot be written"
    assert others[-1] == "RuntimeError: no words"


def test_a_system_without_a_thread_left_ends_nobody_who_logs(pipe, monkeypatch):
    def no_thread(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", no_thread)
        pipe.log("first")
        pipe.log("z" * 9000)
    pipe.log("last")
    first, cut, last = pipe.read()
    assert (first, cut, last) == ("first", "z" * (select.PIPE_BUF - 1), "last")


def test_lines_of_many_threads_stay_whole(pipe):
    threads = [threading.Thread(target=pipe.log, args=("%s", letter * 1000)) for letter in "abcdefgh" * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pipe.read()) == sorted(letter * 1000 for letter in "abcdefgh" * 8)


def test_the_end_waits_for_what_is_read_and_not_for_ever_for_what_is_not(pipe):
    pipe.log("first")
    pipe.writer.flush()
    assert not pipe.writer._lines
    assert pipe.read() == ["first"]
    fill(pipe)
    begin_s = time.monotonic()
    pipe.writer.flush()
    assert 0.5 < time.monotonic() - begin_s < LONG_S


def test_who_has_hung_up_loses_lines_and_disturbs_nobody(pipe):
    pipe.hang_up()
    for number in range(3):
        pipe.log("%d", number)
        pipe.writer.flush()
    assert len(pipe.dropped) == 3


def test_what_a_full_disk_has_cost_is_told_when_it_has_room_again(tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as room, open("/dev/full", "wb", 0) as full:
        writer = LogWriter(os.dup(full.fileno()))
        for number in range(3):
            writer.emit(logging.LogRecord("service.test", logging.INFO, "here.py", 1, "%d", (number,), None))
            writer.flush()
        os.dup2(room.fileno(), writer._descriptor)
        writer.emit(logging.LogRecord("service.test", logging.INFO, "here.py", 1, "again", (), None))
        writer.flush()
        os.close(writer._descriptor)
    assert log.read_text().splitlines() == ["again", "the log could not be written: 3 lines are missing here"]


def test_a_descriptor_that_somebody_has_told_not_to_wait_is_waited_for(pipe):
    os.set_blocking(pipe.writer._descriptor, False)
    for _ in range(20):
        pipe.log("z" * 9000)
    assert [len(line) for line in pipe.read()] == [9000] * 20
    assert pipe.dropped == []


@pytest.mark.parametrize("earlier", [0, 2])
def test_a_line_of_an_interpreter_that_ends_is_written_and_does_not_hold_it(earlier):
    ended = subprocess.run(
        [sys.executable, "-c", LATE.format(earlier)], capture_output=True, text=True, timeout=LONG_S, check=True
    )
    told = [line.partition("service.late: ")[2] for line in ended.stderr.splitlines()]
    assert told == [*(f"line {number}" for number in range(earlier)), "late"]
