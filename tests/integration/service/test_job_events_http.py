"""Watching a job through a real server."""

from __future__ import annotations

import pytest

from service.brokers.memory_jobs import MemoryJobQueue
from service.core.jobs import Progress
from tests.fakes import HeldBroker
from tests.job_client import ASYNC, ask, events_of, make_jobs, problem, until
from tests.processes import until as wait_until
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
    with fake_service(broker=broker, job_photos=1) as (client, _):
        before = ask(client, **ASYNC).headers["location"]
        assert broker.begun.acquire(timeout=20)
        where = ask(client, **ASYNC).headers["location"]
        events = events_of(client, where, then=broker.go.set)
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

        def end():
            if ending != "failed":
                assert broker.begun.acquire(timeout=20)
                client.request(*(("POST", f"{where}/cancel") if ending == "cancelled" else ("DELETE", where)))

        name, event_id, state = events_of(client, where, then=end)[-1]
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
        wait_until(lambda: jobs.watching == 0)
        assert client.get(where).json()["status"] == "running"
        broker.go.set()
        assert until(client, where, "succeeded")


def test_a_stream_ends_when_the_process_drains_and_nothing_moves():
    broker = HeldBroker()
    with fake_service(broker=broker, heartbeat_s=0.05) as (client, gateway):
        where = ask(client, **ASYNC).headers["location"]
        assert broker.begun.acquire(timeout=20)
        assert "end" not in [name for name, _, _ in events_of(client, where, then=gateway.admission.close)]
        problem(ask(client, **ASYNC), 503, "draining")
        broker.go.set()
        until(client, where, "succeeded")
