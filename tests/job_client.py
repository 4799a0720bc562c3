"""What a client of the jobs does, and what it expects of every answer."""

from __future__ import annotations

import json
import time

import pytest

from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.core.metrics import Metrics
from service.core.settings import Settings
from tests.pictures import encoded

PNG = encoded()
ASYNC = {"Prefer": "respond-async"}


def ask(client, data=PNG, options=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/restorations", files={"image": ("photo", data)}, data=options, headers=named)


def problem(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()


def events_of(client, where, *, then=lambda: None, **headers):
    """The events of a job, to the end of the stream, as (name, id, data); `then` is called when the first has come."""
    with client.stream("GET", f"{where}/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text, chunks = "", response.iter_text()
        while "data: " not in text and (chunk := next(chunks, "")):
            text += chunk
        then()
        text += "".join(chunks)
        return [parsed for block in text.split("\n\n") if (parsed := event(block))]


def event(block):
    fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
    return (fields["event"], fields.get("id"), json.loads(fields["data"])) if "data" in fields else None


def until(client, where, *statuses):
    for _ in range(3000):
        state = client.get(where).json()
        if state["status"] in statuses:
            return state
        time.sleep(0.01)
    pytest.fail(f"{state} is not {statuses}")


def make_jobs(kind=MemoryJobQueue):
    """A queue of photos of this kind, with the defaults of the settings."""
    return kind(JobLimits.of(Settings()), metrics=Metrics())
