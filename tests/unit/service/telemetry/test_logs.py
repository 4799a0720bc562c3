"""What a line of the log looks like, and what cannot break it."""

import asyncio
import errno
import io
import json
import logging
import socket
import sys
import threading
import warnings
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import tracing
from service.core.errors import InferenceFailed
from service.core.origin import Origin
from service.core.settings import LogFormat
from service.telemetry.logs import JsonLines, TextLines, sayer, write_logs

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ORIGIN = Origin("req-1", f"00-{TRACE}-00f067aa0ba902b7-01")


def record(message="hello", *arguments, level=logging.INFO, error=None, **extra):
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("service.test", level, "here.py", 1, message, arguments, exc_info)
    vars(made).update(extra)
    return made


def test_an_exception_is_written_once():
    """A handler answers for a defect and logs it; the server is handed the same exception and logs it again."""
    stream = io.StringIO()
    write_logs(LogFormat.JSON, stream)
    told, new = RuntimeError("told"), RuntimeError("new")
    told.__dict__[tracing.TOLD] = True
    for error in (told, new):
        logging.getLogger("a.server").error("Exception in ASGI application\n", exc_info=error)
    (line,) = stream.getvalue().splitlines()
    assert "RuntimeError: new" in json.loads(line)["exception"]


def test_a_process_without_descriptors_does_not_fill_the_log():
    """For every connection that waits asyncio says again that it cannot take it, and again every second."""
    stream, listener, server = io.StringIO(), Exhausted(), asyncio.new_event_loop()
    write_logs(LogFormat.JSON, stream)
    try:
        server._accept_connection(asyncio.Protocol, listener, backlog=2048)
    finally:
        server.close()
        listener.close()
    logging.getLogger("asyncio").error("another")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert ["out of system resource" in line["message"] for line in lines] == [True, False]
    assert "Too many open files" in lines[0]["exception"]


class Exhausted(socket.socket):
    """A listener of a process that has no descriptor left."""

    def accept(self):
        raise OSError(errno.EMFILE, "Too many open files")


def as_json(*arguments, **parts):
    line = JsonLines().format(record(*arguments, **parts))
    assert "\n" not in line
    assert line.isascii()
    return json.loads(line)


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.fixture
def logged():
    """Where whatever is logged may be written."""
    return io.StringIO()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_object_with_its_time_in_utc():
    told = as_json("%d faces", 3, fields={"lane": "batch", "duration_ms": 1.5})
    assert told["message"] == "3 faces"
    assert (told["level"], told["logger"], told["lane"], told["duration_ms"]) == ("info", "service.test", "batch", 1.5)
    assert datetime.fromisoformat(told["timestamp"]).utcoffset().total_seconds() == 0
    assert told["timestamp"].endswith("Z")


def test_request_trace_and_stage_are_those_of_the_caller():
    with tracing.within(ORIGIN), tracing.stage("decode"):
        told = as_json()
    assert (told["request_id"], told["trace_id"], told["stage"]) == ("req-1", TRACE, "decode")


def test_an_error_of_ours_tells_its_code_and_stage():
    error = InferenceFailed("no numbers")
    error.stage = "velocity"
    told = as_json(error=raised(error))
    assert (told["code"], told["stage"]) == ("inference_failed", "velocity")
    assert "Traceback" in told["exception"]


def test_fields_cannot_pose_as_what_the_record_is():
    assert as_json("true", fields={"message": "false", "level": "none"})["message"] == "true"


def test_arguments_that_do_not_fit_lose_no_record():
    assert as_json("%d %s", "x")["message"] == "%d %s"


def test_a_value_that_json_has_no_form_for_is_told_in_words():
    assert as_json(fields={"where": {1, 2} - {2}})["where"] == "{1}"


@given(st.text(), st.text())
def test_no_text_makes_a_second_line(message, value):
    plain = record("%s", message, fields={"value": value})
    assert json.loads(JsonLines().format(plain))["value"] == value
    assert len(TextLines().format(plain).splitlines()) == 1


@given(st.text())
def test_no_exception_s_words_look_like_a_record(message):
    first, *others = TextLines().format(record(error=raised(ValueError(message)))).split("\n")
    assert len(first.splitlines()) == 1
    assert all(line.startswith("    ") and len(line.splitlines()) == 1 for line in others)


def test_text_tells_the_same_in_a_line():
    with tracing.within(ORIGIN):
        line = TextLines().format(record("a photo has ended", fields={"outcome": "succeeded"}))
    assert line.endswith(
        "info     service.test: a photo has ended  request_id=req-1 trace_id=4bf92f35 outcome=succeeded"
    )


def test_of_others_only_warnings_are_written(logged):
    write_logs(LogFormat.JSON, logged)
    logging.getLogger("httpx").info("POST https://hooks.example/secret")
    logging.getLogger("service.gateway").info("ours")
    logging.getLogger("service.gateway").debug("too much")
    logging.getLogger("redis").warning("theirs")
    assert [line["message"] for line in lines(logged)] == ["ours", "theirs"]


def test_warnings_and_whatever_ends_a_thread_or_the_process_are_records(logged):
    write_logs(LogFormat.JSON, logged)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    error = raised(RuntimeError("boom"))
    sys.excepthook(RuntimeError, error, error.__traceback__)
    told = lines(logged)
    assert [line["level"] for line in told] == ["warning", "error", "critical"]
    assert "ZeroDivisionError" in told[1]["exception"]


def test_a_process_tells_its_address_to_people_in_a_plain_line_and_to_machines_in_a_record(logged):
    write_logs(LogFormat.JSON, logged)
    said = []
    sayer(LogFormat.TEXT, said.append)("on http://127.0.0.1:1")
    sayer(LogFormat.JSON, said.append)("on http://127.0.0.1:2")
    assert said == ["on http://127.0.0.1:1"]
    assert [line["message"] for line in lines(logged)] == ["on http://127.0.0.1:2"]
