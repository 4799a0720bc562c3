"""A photo that is restored and whose image does not arrive: it is fetched, not restored and charged again; and what a
failure keeps of the photo that was sent: nothing."""

import gc
import json
from http.server import BaseHTTPRequestHandler

import pytest

from service.client import AsyncHttpClient, Photo, Retry
from service.client.results import Restored
from tests.pictures import encoded
from tests.scripted_servers import http_server
from tests.serving import fake_service

AT_ONCE = Retry(attempts=4, first_s=0.0)
IMAGE = b"an image"
FULL, CUT, SENT, GONE = "full", "cut", "sent", "gone"  # what becomes of an answer


class Script(BaseHTTPRequestHandler):
    """Restores and has no room for the answer, loses half of it, sends it, or does not know the photo any more."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.restored += 1
        self._end(f"/v1/restorations/r{self.server.restored}")

    def do_GET(self):
        if self.path == "/v1/limits":
            self._send(200, json.dumps(self.server.limits).encode(), "application/json")
        elif self.path.endswith("/result"):
            self.server.fetched.append(self.path)
            self._end()
        else:
            self._refuse(404, "not_found")

    def _end(self, where=None):
        match self.server.script.pop(0):
            case "full":
                self._refuse(429, "queue_full", where)
            case "gone":
                self._refuse(404, "not_found")
            case "cut":
                self._send(200, IMAGE, "image/png", where, missing=3)
                self.close_connection = True
            case "sent":
                self._send(200, IMAGE, "image/png", where)

    def _refuse(self, status, code, where=None):
        document = {"code": code, "title": "t", "detail": "d", "retryable": status != 404}
        self._send(status, json.dumps(document).encode(), "application/problem+json", where)

    def _send(self, status, body, kind, where=None, missing=0):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if where is not None:
            self.send_header("Location", where)
        self.end_headers()
        self.wfile.write(body[: len(body) - missing])

    def log_message(self, *_arguments):
        pass


@pytest.fixture(scope="module")
def limits():
    with fake_service() as (client, _):
        return client.get("/v1/limits").json()


def service(script, limits):
    return http_server(Script, script=list(script), limits=limits, restored=0, fetched=[])


@pytest.mark.parametrize(
    ("script", "restored", "fetched"),
    [
        ([SENT], 1, []),
        ([FULL, SENT], 1, ["r1"]),
        ([CUT, SENT], 1, ["r1"]),
        ([FULL, FULL, CUT, SENT], 1, ["r1"] * 3),
        ([FULL, GONE, SENT], 2, ["r1"]),
        ([CUT, GONE, CUT, SENT], 2, ["r1", "r2"]),
    ],
)
async def test_a_photo_that_is_restored_is_fetched_and_not_restored_again(limits, script, restored, fetched):
    with service(script, limits) as (server, url):
        async with AsyncHttpClient(url, retry=AT_ONCE) as client:
            assert (await client.restore(b"photo")).image == IMAGE
    assert (server.script, server.restored) == ([], restored)
    assert server.fetched == [f"/v1/restorations/{name}/result" for name in fetched]


async def test_an_answer_that_failed_holds_nothing_of_its_photo():
    with fake_service() as (service_client, _):
        async with AsyncHttpClient(str(service_client.base_url)) as client:
            photos = [Photo(name, encoded()) for name in "ab"]
            failed = [answer.error async for answer in client.restore_batch(photos, det_threshold=1.0)]
    assert [error.code for error in failed] == ["no_face_found"] * 2
    assert {(error.__traceback__, error.__cause__, error.__context__) for error in failed} == {(None, None, None)}


async def test_an_answer_that_was_taken_is_not_kept_until_the_next_one():
    def last_is_gone():
        gc.collect()
        return not [kept for kept in gc.get_objects() if type(kept) is Restored]

    gone = []

    def photos():
        yield Photo("a", encoded())
        gone.append(last_is_gone())
        yield Photo("b", encoded())
        gone.append(last_is_gone())

    with fake_service() as (service_client, _):
        async with AsyncHttpClient(str(service_client.base_url)) as client:
            async for answer in client.restore_batch(photos(), window=1):
                assert answer.error is None
                del answer
    assert gone == [True, True]
