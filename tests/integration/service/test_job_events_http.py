"""Watching a job through a real server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.brokers.memory_jobs import MemoryJobQueue
from service.core.jobs import Progress
from tests.fakes import HeldBroker
from tests.job_client import ASYNC, ask, events_of, make_jobs, problem, until
from tests.serving import fake_service


@pytest.fixture(scope="module")
def client():
    with fake_service(max_upload_bytes=1_000_000) as (client, _):
        yield client


class TellingBroker(HeldBroker):
    """Says how far the faces are before it waits."""

    async def results(self, job_id, timeout_s, on_progress=None, on_preview=None):
        if on_progress is not None:
            on_progress(Progress(1, 0, 4, 3))
        return await super().results(job_id, timeout_s, on_progress, on_preview)


def test_events_tell_of_line_steps_and_end():
    broker = TellingBroker()
    with fake_service(broker=broker, job_photos=1) as (client, _), ThreadPoolExecutor(1) as other:
        before = ask(client, **ASYNC).headers["location"]
        assert broker.begun.acquire(timeout=20)
        where = ask(client, **ASYNC).headers["location"]
        watching = other.submit(events_of, client, where)
        time.sleep(0.2)
        broker.go.set()
        events = watching.result(timeout=20)
        report = client.get(where).json()
        assert events_of(client, before)[-1][0] == "end"
    names, ids, states = zip(*events, strict=True)
    assert names == ("status",) * (len(events) - 1) + ("end",)
    assert ids == (*map(str, range(1, len(events))), "end")
    assert (states[0]["status"], states[0]["position"]) == ("queued", 0)
    assert {"num_faces": 1, "faces_done": 0, "num_steps": 4, "steps_done": 3} in [s.get("progress") for s in states]
    assert states[-1] == report


@pytest.mark.parametrize("ending", ["failed", "cancelled", "deleted"])
def test_events_end_with_every_end(ending):
    broker = HeldBroker()
    with fake_service(broker=broker, request_timeout_s=0.5 if ending == "failed" else 60) as (client, _):
        where = ask(client, **ASYNC).headers["location"]
        with ThreadPoolExecutor(1) as other:
            watching = other.submit(events_of, client, where)
            assert broker.begun.acquire(timeout=20)
            time.sleep(0.1)
            if ending == "cancelled":
                client.post(f"{where}/cancel")
            elif ending == "deleted":
                client.delete(where)
            name, event_id, state = watching.result(timeout=20)[-1]
    assert (name, event_id) == ("end", "end")
    assert state["status"] == ("failed" if ending == "failed" else "cancelled")
    assert (state["error"] or {}).get("code") == ("deadline_exceeded" if ending == "failed" else None)


def test_who_has_seen_the_end_is_told_not_to_come_back(client):
    where = ask(client).headers["location"]
    assert client.get(f"{where}/events", headers={"Last-Event-ID": "end"}).status_code == 204
    assert len(events_of(client, where, **{"Last-Event-ID": "3"})) == 1


class CountingJobs(MemoryJobQueue):
    """Knows how many watch."""

    watching = 0

    async def watch(self, job_id):
        self.watching += 1
        try:
            async for status in super().watch(job_id):
                yield status
        finally:
            self.watching -= 1


def test_silence_is_broken_and_who_goes_away_costs_nothing():
    broker, jobs = HeldBroker(), make_jobs(CountingJobs)
    with fake_service(broker=broker, jobs=jobs, heartbeat_s=0.02) as (client, _):
        where = ask(client, **ASYNC).headers["location"]
        with client.stream("GET", f"{where}/events") as response:
            text, chunks = "", response.iter_text()
            while text.count(": still here") < 3:
                text += next(chunks)
            assert text.startswith("retry: ")
            assert jobs.watching == 1
        for _ in range(1000):
            if jobs.watching == 0:
                break
            time.sleep(0.01)
        assert jobs.watching == 0
        assert client.get(where).json()["status"] == "running"
        broker.go.set()
        assert until(client, where, "succeeded")


def test_a_stream_ends_when_the_process_drains_and_nothing_moves():
    broker = HeldBroker()
    with fake_service(broker=broker, heartbeat_s=0.05) as (client, gateway), ThreadPoolExecutor(1) as other:
        where = ask(client, **ASYNC).headers["location"]
        watching = other.submit(events_of, client, where)
        assert broker.begun.acquire(timeout=20)
        gateway.admission.close()
        assert [name for name, _, _ in watching.result(timeout=20)].count("end") == 0
        problem(ask(client, **ASYNC), 503, "draining")
        broker.go.set()
        until(client, where, "succeeded")
