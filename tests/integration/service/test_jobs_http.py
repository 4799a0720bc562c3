"""Restorations as jobs through a real server, with a fake queue of faces and a fake detector behind real stages."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.brokers.memory_jobs import MemoryJobQueue
from service.core.errors import DependencyUnavailable
from tests.fakes import FakeDetector, HeldBroker
from tests.job_client import ASYNC, PNG, ask, events_of, make_jobs, problem, until
from tests.pictures import encoded, pixels, png_bomb
from tests.processes import until as wait_until
from tests.serving import fake_service


@pytest.fixture(scope="module")
def client():
    with fake_service(max_upload_bytes=1_000_000) as (client, _):
        yield client


def test_an_answer_at_once_and_the_result_later(client):
    accepted = ask(client, options={"seed": "5", "fidelity": "0"}, **ASYNC)
    assert accepted.status_code == 202
    where = accepted.headers["location"]
    assert accepted.headers["preference-applied"] == "respond-async"
    assert int(accepted.headers["retry-after"]) >= 1
    assert accepted.headers["cache-control"] == "no-store"
    job = accepted.json()
    assert job["status"] in ("queued", "running")
    assert job["urls"] == {
        "report": where,
        "result": f"{where}/result",
        "events": f"{where}/events",
        "cancel": f"{where}/cancel",
    }
    report = until(client, where, "succeeded")
    assert (report["id"], report["seed"], report["faces"][0]["status"]) == (job["id"], 5, "restored")
    direct = client.post("/restore", files={"image": PNG}, data={"seed": "5", "fidelity": "0"})
    assert client.get(report["urls"]["result"]).content == direct.content


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [(None, None), ("wait=20", "wait=20"), ("respond-async, wait=20", "wait=20"), ("wait=100000", None), ("x", None)],
)
def test_who_waits_gets_the_report(client, prefer, applied):
    answered = ask(client, **({"Prefer": prefer} if prefer else {}))
    assert answered.status_code == 200
    assert answered.headers.get("preference-applied") == applied
    assert answered.json() == client.get(answered.headers["location"]).json()
    assert answered.json()["status"] == "succeeded"


@pytest.mark.parametrize("prefer", ["wait=0", "wait=1", "respond-async, wait=1"])
def test_who_does_not_wait_long_enough_is_told_where_to_look(prefer):
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, _):
        accepted = ask(client, Prefer=prefer)
        assert accepted.status_code == 202
        assert accepted.headers["preference-applied"] == prefer
        broker.go.set()
        assert until(client, accepted.headers["location"], "succeeded")


WATCHED = {"preview": "true"}


def test_who_waits_is_served_before_who_does_not():
    broker = HeldBroker()
    broker.go.set()
    with fake_service(broker=broker) as (client, _):
        ways = [("wait=30", {}), ("respond-async", {}), ("wait=0", {}), ("wait=0", WATCHED), ("respond-async", WATCHED)]
        ids = [ask(client, options=options, Prefer=prefer).json()["id"] for prefer, options in ways]
        for job_id in ids:
            until(client, f"/v1/restorations/{job_id}", "succeeded")
        assert [broker.jobs[job_id][0].lane for job_id in ids] == [
            "interactive",
            *["batch"] * 2,
            "interactive",
            "batch",
        ]


REFUSED_AT_ONCE = {
    "text named jpg": (b"hello, this is a text", {}, 415, "unsupported_format"),
    "bomb": (png_bomb(), {}, 413, "image_too_large"),
    "tiny": (encoded(pixels(20, 20)), {}, 422, "image_too_small"),
    "empty": (b"", {}, 400, "empty_upload"),
    "wrong option": (PNG, {"fidelity": "2"}, 422, "invalid_option"),
    "unknown option": (PNG, {"webhok_url": "https://example.org"}, 422, "invalid_option"),
    "webhooks are off": (PNG, {"webhook_url": "https://example.org"}, 422, "invalid_option"),
}


@pytest.mark.parametrize("case", REFUSED_AT_ONCE)
def test_what_is_bound_to_fail_makes_no_job(client, case):
    data, options, status, code = REFUSED_AT_ONCE[case]
    refused = ask(client, data, options, **ASYNC)
    problem(refused, status, code)
    assert "location" not in refused.headers


def test_an_empty_webhook_is_none(client):
    assert ask(client, options={"webhook_url": ""}).status_code == 200


def test_a_failure_is_the_answer_of_who_waits_and_part_of_the_job():
    with fake_service(detector=FakeDetector(lambda _: [])) as (client, _):
        answered = ask(client)
        told = problem(answered, 422, "no_face_found")
        where = answered.headers["location"]
        job = client.get(where).json()
        assert (job["status"], job["position"]) == ("failed", None)
        assert job["expires_at"] > job["created_at"]
        assert job["error"] == {**told, "instance": where}
        problem(client.get(f"{where}/result"), 422, "no_face_found")
        assert client.post(f"{where}/cancel").json() == job


def test_no_result_before_the_end_and_none_after_a_cancellation():
    broker = HeldBroker()
    with fake_service(broker=broker, job_photos=1) as (client, _):
        running = ask(client, **ASYNC).headers["location"]
        assert broker.begun.acquire(timeout=20)
        queued = ask(client, **ASYNC).headers["location"]
        assert client.get(queued).json()["position"] == 0
        for where in (queued, running):
            refused = client.get(f"{where}/result")
            problem(refused, 409, "not_finished")
            assert int(refused.headers["retry-after"]) >= 1
            withdrawn = client.post(f"{where}/cancel")
            assert (withdrawn.status_code, withdrawn.json()["status"]) == (200, "cancelled")
            problem(client.get(f"{where}/result"), 410, "cancelled")
            assert client.get(where).json()["status"] == "cancelled"
        assert broker.dropped.wait(timeout=20)
        assert broker.jobs.keys() == {running.rsplit("/", 1)[1]}
        broker.go.set()
        assert ask(client).status_code == 200


def test_who_waits_for_a_job_that_another_cancels_is_told():
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, _), ThreadPoolExecutor(1) as other:
        waiting = other.submit(ask, client)
        assert broker.begun.acquire(timeout=20)
        (job_id,) = broker.jobs
        assert client.post(f"/v1/restorations/{job_id}/cancel").status_code == 200
        problem(waiting.result(timeout=20), 410, "cancelled")


def test_cancelling_what_has_ended_changes_nothing(client):
    answered = ask(client)
    where = answered.headers["location"]
    assert client.post(f"{where}/cancel").json() == answered.json()
    assert client.get(f"{where}/result").status_code == 200


def test_a_deleted_job_is_withdrawn_and_gone():
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, _):
        where = ask(client, **ASYNC).headers["location"]
        assert broker.begun.acquire(timeout=20)
        assert client.delete(where).status_code == 204
        for method, path in (("GET", ""), ("GET", "/result"), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")):
            problem(client.request(method, where + path), 404, "not_found")
        assert broker.dropped.wait(timeout=20)


def test_results_of_jobs_and_of_direct_restorations_are_fetched_alike(client):
    where = client.post("/restore", files={"image": PNG}).headers["location"]
    assert client.get(where).json()["status"] == "succeeded"
    assert [name for name, _, _ in events_of(client, where)] == ["end"]
    assert client.post(f"{where}/cancel").json()["status"] == "succeeded"


def test_a_hang_up_leaves_the_job_alone():
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, _):
        request = client.build_request("POST", "/v1/restorations", files={"image": ("a.png", PNG)})
        head = f"POST /v1/restorations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(request.read())}\r\n"
        head += f"Content-Type: {request.headers['content-type']}\r\n\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(head.encode() + request.read())
            assert broker.begun.acquire(timeout=20)
        counted = 'restore_requests_total{code="499",route="/v1/restorations"} 1.0'
        wait_until(lambda: counted in client.get("/metrics").text)
        broker.go.set()
        (job_id,) = broker.jobs
        assert until(client, f"/v1/restorations/{job_id}", "succeeded")


def test_a_full_line_answers_when_to_come_back():
    broker = HeldBroker()
    with fake_service(broker=broker, job_photos=1, max_queued_photos=1) as (client, _):
        ask(client, **ASYNC)
        assert broker.begun.acquire(timeout=20)
        queued = ask(client, **ASYNC, Idempotency_Key="queued").headers["location"]
        refused = ask(client, **ASYNC)
        problem(refused, 429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        problem(ask(client, Prefer="wait=0"), 429, "queue_full")
        assert ask(client, options=WATCHED, Prefer="wait=0").status_code == 202, "the other lane has room"
        assert ask(client, **ASYNC, Idempotency_Key="queued").headers["location"] == queued
        assert 'restore_photo_queue_depth{lane="batch"} 1.0' in client.get("/metrics").text
        broker.go.set()


class AwayJobs(MemoryJobQueue):
    """A queue whose server does not answer."""

    async def _away(self, *arguments):
        raise DependencyUnavailable("the queue does not answer")

    admit = status = result = cancel = delete = keep = _away


def test_a_queue_that_does_not_answer_is_said_plainly():
    with fake_service(jobs=make_jobs(AwayJobs)) as (client, _):
        for method, path in (("GET", ""), ("GET", "/result"), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")):
            refused = client.request(method, f"/v1/restorations/some{path}")
            problem(refused, 503, "dependency_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        problem(ask(client), 503, "dependency_unavailable")
        direct = client.post("/restore", files={"image": PNG})
        assert direct.status_code == 200
        assert "location" not in direct.headers


def test_outcomes_are_counted():
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, _):
        cancelled = ask(client, **ASYNC).headers["location"]
        assert broker.begun.acquire(timeout=20)
        client.post(f"{cancelled}/cancel")
        assert broker.dropped.wait(timeout=20)
        broker.go.set()
        ask(client)
        ask(client, options={"det_threshold": "0.99"})
        client.post("/restore", files={"image": PNG})
        text = client.get("/metrics").text
        expected = {"succeeded": 2.0, "no_face_found": 1.0, "cancelled": 1.0}
        for outcome, count in expected.items():
            assert f'restore_photos_total{{outcome="{outcome}"}} {count}' in text


def test_the_documentation_of_jobs_is_complete(client):
    document = client.get("/openapi.json").json()
    asked = document["paths"]["/v1/restorations"]["post"]
    form = asked["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    direct = document["paths"]["/restore"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form) == {*direct["properties"], "webhook_url", "keep_image", "image_from", "preview"}
    assert {parameter["name"] for parameter in asked["parameters"]} == {"Prefer", "Idempotency-Key"}
    assert {"200", "202", "400", "410", "413", "415", "422", "429", "500", "503", "504"} <= set(asked["responses"])
    assert "Preference-Applied" in asked["responses"]["202"]["headers"]
    fetched = document["paths"]["/v1/restorations/{restoration_id}/result"]["get"]["responses"]
    assert "Retry-After" in fetched["409"]["headers"]
    watched = document["paths"]["/v1/restorations/{restoration_id}/events"]["get"]["responses"]
    assert "text/event-stream" in watched["200"]["content"]
    assert document["webhooks"]["restoration-ended"]["post"]["requestBody"]
    sample = document["components"]["schemas"]["JobSchema"]["examples"][0]
    assert set(sample) == set(document["components"]["schemas"]["JobSchema"]["properties"])


def test_the_documented_job_is_what_is_sent():
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, _):
        job = ask(client, **ASYNC).json()
        assert set(job) == set(client.get("/openapi.json").json()["components"]["schemas"]["JobSchema"]["properties"])
        broker.go.set()
