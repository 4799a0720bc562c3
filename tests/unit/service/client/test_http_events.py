"""Events of a job over HTTP, as a service sends them to whoever asked for previews."""

import json
from http.server import BaseHTTPRequestHandler

from service.client import HttpClient
from tests.scripted_servers import http_server

RUNNING = {"id": "a", "status": "running", "created_at": "2026-11-26T10:00:00Z"}
ENDED = {"id": "a", "status": "cancelled", "created_at": "2026-11-26T10:00:00Z"}
PREVIEW = {"face_index": 0, "steps_done": 3, "num_steps": 24, "image": "data:image/jpeg;base64,AA=="}
EVENTS = (("status", RUNNING), ("preview", PREVIEW), ("end", ENDED))


class Job(BaseHTTPRequestHandler):
    """Tells all events at once."""

    def do_GET(self):
        body = ": here\n\n" + "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in EVENTS)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments):
        pass


def test_previews_are_no_states_of_a_job():
    with http_server(Job) as (_, url), HttpClient(url) as client:
        assert [job.status for job in client.watch("a")] == ["running", "cancelled"]
