"""A service's last spans, a collector that is away, and an error of ours: what is told of it, and to whom."""

import json

import pytest

from tests.fakes import FakeDetector
from tests.numbered_photos import numbered
from tests.otlp_collector import Collector
from tests.pictures import encoded
from tests.processes import service_process
from tests.serving import fake_service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"x-request-id": "req-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
NEVER_MS = "600000"


def restore(service):
    form = {"aligned": "true"}
    return service.client.post("/restore", files={"image": numbered(1)}, data=form, headers=HEADERS)


def test_a_service_that_is_told_to_end_sends_what_it_has(arithmetic_bundle, tmp_path, monkeypatch):
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", NEVER_MS)
        with service_process(arithmetic_bundle, tmp_path / "log") as service:
            assert restore(service).status_code == 200
            assert collector.spans == []
        assert service.child.returncode == 0
    spans = collector.trace(TRACE)
    assert {"POST /restore", "gateway", "sampler", "velocity"} <= {span.name for span in spans}
    assert {span.service for span in spans} == {"latent-pmrf-serve"}


@pytest.mark.parametrize("status", [None, 500])
def test_a_collector_that_is_away_or_fails_hurts_no_photo(arithmetic_bundle, tmp_path, monkeypatch, status):
    with Collector(status=status or 200) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url if status else "http://127.0.0.1:9")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
        with service_process(arithmetic_bundle, tmp_path / "log", log_format="json") as service:
            answers = [restore(service) for _ in range(3)]
        assert service.child.returncode == 0
    assert [answer.status_code for answer in answers] == [200] * 3
    assert all(json.loads(line) for line in service.log.read_text().splitlines())


def test_a_defect_is_answered_and_logged_under_its_request(caplog):
    def find(_pixels):
        raise KeyError("grandma.jpg")

    with fake_service(detector=FakeDetector(find)) as (client, _):
        answer = client.post("/restore?token=secret", files={"image": encoded()}, headers=HEADERS)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (500, "internal")
    assert (problem["request_id"], problem["trace_id"]) == ("req-1", TRACE)
    assert answer.headers["x-request-id"] == "req-1"
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert "grandma" not in answer.text
    (told,) = [record for record in caplog.records if record.name == "service.api.problems"]
    assert told.getMessage() == f"{problem['instance']} POST /restore"


def test_a_service_without_a_thread_left_answers_with_a_problem(monkeypatch):
    async def no_thread(*_arguments, **_options):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("anyio.to_thread.run_sync", no_thread)
    with fake_service() as (client, _):
        answer = client.post("/restore", files={"image": b"no photo"}, headers=HEADERS)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_format")


def test_what_is_not_found_has_a_request_id_too():
    with fake_service() as (client, _):
        answer = client.get("/nothing/here")
    assert answer.status_code == 404
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "traceresponse" not in answer.headers
