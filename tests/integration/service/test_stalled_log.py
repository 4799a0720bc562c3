"""A process whose standard error is a pipe that nobody reads: it goes on, and ends when it is told to."""

import contextlib
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from PIL import Image
from skimage.data import astronaut

from tests.numbered_photos import numbered
from tests.pictures import saved
from tests.processes import ROOT, command, environment, until

REQUESTS = 600  # more lines than a pipe of 64 KiB holds
PIPE_BYTES = 64 * 1024
ENDS_S = 60.0
LESS_ROOM = """
from service.cli import main
from service.telemetry.log_writer import LogWriter
LogWriter.__init__.__kwdefaults__["most_bytes"] = {}
main({})
"""


class Reader:
    """The end of a pipe that nobody reads until somebody does.

    Attributes:
        writing: The other end.
    """

    def __init__(self):
        self._reading, self.writing = os.pipe()
        fcntl.fcntl(self._reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._read = bytearray()
        self._thread = threading.Thread(target=self._work)

    def begin(self):
        self._thread.start()

    def lines(self):
        """All that was read, when the last writer has gone."""
        if self._thread.ident is None:
            self.begin()
        self._thread.join(ENDS_S)
        os.close(self._reading)
        return self._read.decode().splitlines()

    def _work(self):
        while part := os.read(self._reading, PIPE_BYTES):
            self._read += part


@contextlib.contextmanager
def unread_service(bundle, most_bytes=None, **settings):
    """A service that is ready, its client, and the pipe to which it logs; with less room for lines that wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipe = Reader()
    variables = environment(bundle, **settings)
    serve = ["serve", "--port", str(port)]
    started = command(*serve) if most_bytes is None else [sys.executable, "-c", LESS_ROOM.format(most_bytes, serve)]
    child = subprocess.Popen(started, cwd=ROOT, env=variables, stderr=pipe.writing)
    os.close(pipe.writing)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            def is_ready():
                with contextlib.suppress(httpx.ConnectError):
                    return client.get("/readyz").status_code == 200
                return child.poll() is not None

            until(is_ready)
            assert child.poll() is None
            yield child, client, pipe
    finally:
        child.kill()
        child.wait()


def ask(client, times=REQUESTS):
    for number in range(times):
        assert client.get("/nothing", headers={"x-request-id": f"r{number}"}).status_code == 404


def ask_in_a_row(caller, times=200):
    """Requests that wait for no answers, with the longest lines."""
    request_id = b"r" * 128
    caller.sendall(b"GET /nothing HTTP/1.1\r\nhost: a\r\nx-request-id: %s\r\n\r\n" % request_id * times)
    answers = b""
    while answers.count(b"\nx-request-id: %s\r" % request_id) < times:
        answers += caller.recv(PIPE_BYTES)


def test_a_service_whose_log_nobody_reads_answers_restores_and_ends(arithmetic_bundle):
    with unread_service(arithmetic_bundle) as (child, client, pipe):
        ask(client)
        assert client.get("/livez").status_code == 200
        form = {"aligned": "true"}
        assert client.post("/restore", files={"image": numbered(1)}, data=form).status_code == 200
        child.terminate()
        assert child.wait(ENDS_S) == 0
        assert len(pipe.lines()) > PIPE_BYTES // 1000


def test_a_reader_that_comes_back_gets_what_waited(arithmetic_bundle):
    with unread_service(arithmetic_bundle, log_format="json") as (child, client, pipe):
        ask(client)
        pipe.begin()
        child.terminate()
        assert child.wait(ENDS_S) == 0
        told = [json.loads(line) for line in pipe.lines()]
    asked = [line["request_id"] for line in told if line["message"] == "answered"]
    assert asked == [f"r{number}" for number in range(REQUESTS)]


def test_metrics_and_one_line_tell_what_was_dropped(arithmetic_bundle):
    with unread_service(arithmetic_bundle, 2 * PIPE_BYTES, log_format="json") as (child, client, pipe):

        def lost():
            told = client.get("/metrics").text
            return int(float(re.search(r"^restore_log_lines_dropped_total (\S+)$", told, re.MULTILINE)[1]))

        with socket.create_connection((client.base_url.host, client.base_url.port)) as caller:
            while not lost():
                ask_in_a_row(caller)
        pipe.begin()

        def is_written():
            missing = lost()
            ask(client, 1)
            return lost() == missing

        until(is_written)
        missing = lost()
        child.terminate()
        assert child.wait(ENDS_S) == 0
        told = [json.loads(line)["message"] for line in pipe.lines()]
    assert [line for line in told if "missing" in line] == [
        f"the log was not read: {missing} lines of it are missing here"
    ]


def test_a_stuck_process_ends_though_nobody_reads_why(arithmetic_bundle):
    large = saved(Image.fromarray(astronaut()).resize((3000, 3000)), "JPEG")
    with unread_service(arithmetic_bundle, log_format="json", call_timeout_s=0.01) as (child, client, _):
        ask(client)
        with pytest.raises(httpx.TransportError):
            client.post("/restore", files={"image": large})
        assert child.wait(ENDS_S) == 1
