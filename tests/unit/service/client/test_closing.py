"""Clients that are closed, forked or left open at a bad moment: nobody waits for what will not come."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.client import AsyncGrpcClient, AsyncHttpClient, HttpClient, RestorationError
from tests.processes import ROOT

RUNNING = {"id": "a", "status": "running", "created_at": "2026-11-26T10:00:00Z"}
WATCHES = 120  # more than a pool of connections has by default


class Endless(BaseHTTPRequestHandler):
    """A job that does not end while the server runs."""

    def do_GET(self):
        if self.path.endswith("/events"):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(f"event: status\ndata: {json.dumps(RUNNING)}\n\n".encode())
            self.wfile.flush()
            self.server.released.wait(60)
            return
        body = json.dumps(RUNNING).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * WATCHES


@pytest.fixture(scope="module")
def url():
    with Server(("127.0.0.1", 0), Endless) as server:
        server.released = threading.Event()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.released.set()
        server.shutdown()
        thread.join()


def ends(program, url):
    """What a program prints that comes to its end."""
    done = subprocess.run(
        [sys.executable, "-c", program, url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.split()


def test_a_program_ends_with_a_watch_that_nobody_has_closed(url):
    program = """
import sys
from service.client import HttpClient
client = HttpClient(sys.argv[1])
states = client.watch("a")
print(next(states).status)
"""
    assert ends(program, url) == ["running"]


def test_a_program_ends_whose_objects_close_their_client(url):
    program = """
import sys
from service.client import HttpClient
class App:
    def __init__(self):
        self.client = HttpClient(sys.argv[1])
    def __del__(self):
        self.client.close()
app = App()
app.itself = app
print(app.client.get("a").status)
"""
    assert ends(program, url) == ["running"]


FORKED = """
import os, sys
from service.client import HttpClient
client = HttpClient(sys.argv[1])
if USED:
    client.get("a")
child = os.fork()
if child == 0:
    try:
        print(client.get("a").status, flush=True)
    except RuntimeError as error:
        print("fork" in str(error), flush=True)
    client.close()
    os._exit(0)
os.waitpid(child, 0)
print(client.get("a").status)
client.close()
"""


@pytest.mark.parametrize(("used", "of_the_child"), [(False, "running"), (True, "True")])
def test_a_client_after_a_fork(url, used, of_the_child):
    assert ends(FORKED.replace("USED", str(used)), url) == [of_the_child, "running"]


def test_calls_that_meet_the_closing_end():
    """Calls are short, and many begin while the client is closed."""

    def ask(client, begun):
        with contextlib.suppress(RuntimeError):
            while True:
                begun.set()
                with contextlib.suppress(RestorationError):
                    client.restore(b"", timeout_s=0.0)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            client = HttpClient("http://127.0.0.1:9")
            begun = [threading.Event() for _ in range(6)]
            asking = [pool.submit(ask, client, event) for event in begun]
            for event in begun:
                event.wait(30)
            closing = [pool.submit(client.close) for _ in range(2)]
            for future in (*asking, *closing):
                future.result(30)


def test_who_watches_is_told_when_the_client_is_closed(url):
    client = HttpClient(url)
    states = client.watch("a")
    assert next(states).status == "running"
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, states)
        client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            following.result(30)


def test_a_source_cannot_wait_for_the_loop_that_reads_it(url):
    with HttpClient(url) as client:

        async def photos():
            yield client.get("a").id

        with pytest.raises(RuntimeError, match="own event loop"):
            list(client.restore_batch(photos()))


@pytest.mark.parametrize(
    ("kind", "address"), [(AsyncHttpClient, "http://127.0.0.1:9"), (AsyncGrpcClient, "127.0.0.1:9")]
)
async def test_a_closed_client_connects_no_more(kind, address):
    client = kind(address)
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.limits()


async def test_watches_take_no_connection_from_other_calls(url):
    async with AsyncHttpClient(url) as client, contextlib.AsyncExitStack() as watching:
        watches = [await watching.enter_async_context(contextlib.aclosing(client.watch("a"))) for _ in range(WATCHES)]
        assert {job.status for job in await asyncio.gather(*map(anext, watches))} == {"running"}
        assert (await client.get("a")).status == "running"
