"""What somebody else answers in the place of the service is no photo and no job."""

import contextlib
import json
from http.server import BaseHTTPRequestHandler

import pytest

from service.client import HttpClient, RestorationError, Retry, ServerUnreachable
from tests.scripted_servers import http_server

PAGE, OTHER = ("text/html", b"<html>log in</html>", ""), ("application/json", b'{"ok": true}', "")
ZIPPED = ("application/json", b'{"ok": true}', "gzip")  # it is not


class Somebody(BaseHTTPRequestHandler):
    """Answers everything with what the server says, but for the limits of a service."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.keys.append(self.headers.get("idempotency-key"))
        media_type, body, coding = self.server.answer
        if self.path == "/v1/limits" and self.server.limits is not None:
            media_type, body, coding = "application/json", json.dumps(self.server.limits).encode(), ""
        self.send_response(200)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        if coding:
            self.send_header("content-encoding", coding)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_arguments):
        pass


LIMITS = {
    **dict.fromkeys(("max_image_px", "min_image_side_px", "max_output_px", "max_faces", "max_queued_photos"), 64),
    **dict.fromkeys(("request_timeout_s", "job_timeout_s", "result_ttl_s"), 60.0),
    **{"model": "m@1", "input_formats": ["png"], "output_formats": ["png"], "webhooks": False},
    "max_upload_bytes": 1000,
    "options": {"num_steps": {"default": 1, "maximum": 2}, "fidelity": {"default": 0.5}},
}


@contextlib.contextmanager
def answering(answer, limits=LIMITS):
    serving = http_server(Somebody, answer=answer, limits=limits, keys=[])
    with serving as (server, url), HttpClient(url, retry=Retry(attempts=1)) as client:
        yield client, server


@pytest.mark.parametrize("answer", [PAGE, OTHER])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.restore(b"photo"),
        lambda client: client.submit(b"photo"),
        lambda client: client.get("a"),
        lambda client: client.result("a"),
        lambda client: client.cancel("a"),
    ],
    ids=["restore", "submit", "get", "result", "cancel"],
)
def test_it_is_told_as_an_answer_of_somebody_else(answer, call):
    with answering(answer) as (client, _), pytest.raises(RestorationError, match="something else") as told:
        call(client)
    assert told.value.code == "http_error"


def test_limits_of_somebody_else():
    with answering(OTHER, limits=None) as (client, _), pytest.raises(RestorationError, match="something else"):
        client.limits()


def test_a_broken_encoding_is_a_lost_answer():
    with answering(ZIPPED) as (client, _), pytest.raises(ServerUnreachable):
        client.get("a")


def test_a_key_keeps_its_spaces():
    job = ("application/json", json.dumps({"id": "a", "status": "queued"}).encode(), "")
    with answering(job) as (client, server):
        client.submit(b"photo", idempotency_key=" order 17 ")
    assert server.keys[-1] == '" order 17 "'


@pytest.mark.parametrize("key", ["order\n17", "Gr\xf6\xdfe"])
def test_a_key_that_no_header_can_have_is_refused_as_the_service_does(key):
    with answering(OTHER) as (client, server), pytest.raises(RestorationError) as told:
        client.submit(b"photo", idempotency_key=key)
    assert told.value.code == "malformed_request"
    assert server.keys == []
