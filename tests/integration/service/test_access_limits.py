"""Rates and quotas over HTTP: who asks too much is told when to come back, and nobody pays twice or for nothing."""

import contextlib
import re

import pytest

from service.brokers.redis_jobs import RedisJobQueue, SharedJobLimits
from service.core.errors import InferenceFailed
from service.core.metrics import Metrics
from service.core.shares import Places
from tests.api_keys import add_key, bearer
from tests.fakes import EchoBroker, FakeDetector, HeldBroker, face_at
from tests.job_client import ASYNC, PNG, ask, problem, until
from tests.pictures import encoded, pixels
from tests.processes import until as wait_until
from tests.redis_servers import fresh_prefix, shared_server
from tests.serving import fake_service

PHOTO_PX = 120 * 100
TWO_FACES = FakeDetector(lambda _: [face_at(8, 8, 40), face_at(60, 40, 44)])


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def service(keys):
    """Starts a service that asks for keys; the value is a client that shows one with these limits."""
    with contextlib.ExitStack() as stack:

        def start(limits, **settings):
            key = add_key(keys, "shop", **limits)
            client, _ = stack.enter_context(fake_service(api_keys_file=keys, **settings))
            client.headers.update(bearer(key))
            return client

        yield start


def test_a_key_with_a_rate_is_told_what_is_left_and_when_to_come_back(service):
    client = service({"requests_per_s": 1 / 1800, "burst": 3})
    answers = [client.get("/v1/limits") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers.get("ratelimit") for answer in answers[:3]] == [f'"requests";r={n}' for n in (2, 1, 0)]
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=3;w=5400'
    told = problem(answers[3], 429, "rate_limited")
    assert told["retryable"]
    assert 1700 < int(answers[3].headers["retry-after"]) <= 1800


def test_every_request_counts_photos_and_questions_alike(service):
    client = service({"requests_per_s": 1 / 1800, "burst": 3})
    where = ask(client).headers["location"]
    assert client.get(where).status_code == 200
    assert client.post("/restore", files={"image": PNG}).status_code == 200
    for method, path in (("GET", where), ("GET", f"{where}/events"), ("POST", "/restore"), ("DELETE", where)):
        problem(client.request(method, path), 429, "rate_limited")


def test_an_owner_has_half_of_the_event_streams(service, keys):
    broker = HeldBroker()
    client = service({}, broker=broker, watchers=Places(2, "event streams", hint="wait"))
    other = bearer(add_key(keys, "rival"))
    wait_until(lambda: client.get("/v1/limits", headers=other).status_code == 200)
    where = ask(client, **ASYNC).headers["location"]
    with client.stream("GET", f"{where}/events") as first:
        assert first.status_code == 200
        told = problem(client.get(f"{where}/events"), 429, "queue_full")
        assert "of yours" in told["detail"]
        assert told["retryable"]
        theirs = ask(client, **ASYNC, **other).headers["location"]
        with client.stream("GET", f"{theirs}/events", headers=other) as second:
            assert second.status_code == 200
            broker.go.set()
            assert "event: end" in first.read().decode()
    wait_until(lambda: client.get(f"{where}/events").status_code == 200)


def test_health_and_the_page_are_not_counted(service):
    client = service({"requests_per_s": 1 / 1800, "burst": 1})
    client.get("/v1/limits")
    problem(client.get("/v1/limits"), 429, "rate_limited")
    assert {client.get(path).status_code for path in ("/livez", "/readyz", "/metrics", "/", "/docs")} == {200}


def test_what_is_wrong_is_not_counted_against_the_key_it_resembles(service):
    client = service({"requests_per_s": 1 / 1800, "burst": 1})
    key = client.headers["authorization"]
    for _ in range(3):
        problem(client.get("/v1/limits", headers={"Authorization": key[:-1]}), 401, "unauthenticated")
    assert client.get("/v1/limits").status_code == 200


def test_keys_of_one_name_share_and_others_do_not(service, keys):
    client = service({"requests_per_s": 1 / 1800, "burst": 1})
    second, other = add_key(keys, "shop", requests_per_s=1 / 1800, burst=1), add_key(keys, "rival")
    client.get("/v1/limits")
    wait_until(lambda: client.get("/v1/limits", headers=bearer(other)).status_code == 200)
    problem(client.get("/v1/limits", headers=bearer(second)), 429, "rate_limited")


def test_two_services_on_one_redis_count_together(service, keys):
    shared = {"redis_url": shared_server("7").url, "redis_prefix": fresh_prefix()}
    client = service({"requests_per_s": 1 / 1800, "burst": 2}, **shared)
    with fake_service(api_keys_file=keys, **shared) as (second, _):
        second.headers.update(client.headers)
        statuses = [each.get("/v1/limits").status_code for each in (client, second, client, second)]
    assert statuses == [200, 200, 429, 429]


def test_a_photo_costs_its_pixels_times_its_faces(service):
    client = service({"quota_face_px": 5 * PHOTO_PX}, detector=TWO_FACES)
    statuses = [client.post("/restore", files={"image": PNG}).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]  # 2, 4, then 6 of 5 photos' pixels
    refused = client.post("/restore", files={"image": PNG})
    told = problem(refused, 429, "quota_exceeded")
    assert (told["spent_face_px"], told["quota_face_px"]) == (6 * PHOTO_PX, 5 * PHOTO_PX)
    assert told["retryable"]
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_400


def test_a_larger_photo_costs_more(service):
    client = service({"quota_face_px": 10 * PHOTO_PX})
    assert client.post("/restore", files={"image": encoded(pixels(480, 400))}).status_code == 200
    assert (
        problem(client.post("/restore", files={"image": PNG}), 429, "quota_exceeded")["spent_face_px"] == 16 * PHOTO_PX
    )


def test_jobs_cost_the_same_as_photos_that_are_waited_for(service):
    client = service({"quota_face_px": 3 * PHOTO_PX}, detector=TWO_FACES)
    for _ in range(2):
        where = ask(client, Prefer="respond-async").headers["location"]
        until(client, where, "succeeded")
    told = problem(ask(client, Prefer="respond-async"), 429, "quota_exceeded")
    assert told["spent_face_px"] in (3 * PHOTO_PX, 4 * PHOTO_PX)  # the last one may be settled a moment later
    assert client.get(where).status_code == 200


def test_a_repetition_is_the_same_job_and_costs_nothing_even_when_all_is_spent(service):
    client = service({"quota_face_px": PHOTO_PX})
    first = ask(client, Idempotency_Key="order-7")
    again = ask(client, Idempotency_Key="order-7")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["location"] == first.headers["location"]
    assert problem(ask(client, Idempotency_Key="order-8"), 429, "quota_exceeded")["spent_face_px"] == PHOTO_PX


def test_a_job_that_was_forgotten_is_not_had_again_for_nothing(service):
    client = service({"quota_face_px": PHOTO_PX})
    first = ask(client, Idempotency_Key="order-7")
    client.delete(first.headers["location"])
    problem(ask(client, Idempotency_Key="order-7"), 429, "quota_exceeded")


def test_a_key_that_belongs_to_another_request_costs_nothing(service):
    client = service({"quota_face_px": 3 * PHOTO_PX})
    ask(client, Idempotency_Key="order-7")
    for seed in range(5):
        problem(ask(client, options={"seed": seed}, Idempotency_Key="order-7"), 422, "idempotency_conflict")


def test_a_photo_that_is_refused_for_lack_of_room_costs_nothing(service):
    client = service({"quota_face_px": 3 * PHOTO_PX}, broker=HeldBroker(), max_queued_photos=1, job_photos=1)
    first = ask(client, Prefer="respond-async").headers["location"]
    until(client, first, "running")
    assert ask(client, Prefer="respond-async").status_code == 202
    for _ in range(5):
        problem(ask(client, Prefer="respond-async"), 429, "queue_full")


def test_a_photo_that_the_service_fails_costs_nothing_and_a_bad_photo_its_one_face(service):
    client = service({"quota_face_px": 2 * PHOTO_PX}, broker=EchoBroker(error=InferenceFailed("a network failed")))
    for _ in range(4):
        problem(client.post("/restore", files={"image": PNG}), 500, "inference_failed")


def test_a_photo_without_a_face_costs_one(service):
    client = service({"quota_face_px": 2 * PHOTO_PX}, detector=FakeDetector(lambda _: []))
    for _ in range(2):
        problem(client.post("/restore", files={"image": PNG}), 422, "no_face_found")
    problem(client.post("/restore", files={"image": PNG}), 429, "quota_exceeded")


def test_a_job_that_is_tried_again_under_its_key_is_charged_for_the_one_that_is_done(service):
    broker = EchoBroker(error=InferenceFailed("a network failed"))
    client = service({"quota_face_px": PHOTO_PX}, broker=broker)
    for _ in range(3):
        problem(ask(client, Idempotency_Key="order-7"), 500, "inference_failed")
    broker.error = None
    assert [ask(client, Idempotency_Key="order-7").status_code for _ in range(2)] == [200, 200]
    assert problem(ask(client), 429, "quota_exceeded")["spent_face_px"] == PHOTO_PX


def test_a_job_whose_result_cannot_be_kept_costs_one_face_and_counts_as_failed(service):
    """Nobody can fetch its faces; settling the first account may come a moment after its answer."""
    client = service({"quota_face_px": 2 * PHOTO_PX}, detector=TWO_FACES, result_cache_bytes=1000)
    problem(ask(client), 413, "image_too_large")
    wait_until(lambda: 'restore_photos_total{outcome="image_too_large"} 1.0' in client.get("/metrics").text)
    assert 'restore_photos_total{outcome="succeeded"} 1.0' not in client.get("/metrics").text
    problem(ask(client), 413, "image_too_large")
    assert problem(ask(client), 429, "quota_exceeded")["spent_face_px"] == 2 * PHOTO_PX


def test_what_is_no_photo_costs_nothing(service):
    client = service({"quota_face_px": 1})
    for data in (b"no photo", PNG[:60]):
        assert client.post("/restore", files={"image": data}).status_code in (415, 422)
    assert client.post("/restore", files={"image": PNG}).status_code == 200
    problem(client.post("/restore", files={"image": PNG}), 429, "quota_exceeded")


def test_refusals_are_counted_by_their_codes(service):
    client = service({"requests_per_s": 1 / 1800, "burst": 2, "quota_face_px": 1})
    client.post("/restore", files={"image": PNG})
    client.post("/restore", files={"image": PNG})
    client.get("/v1/limits")
    counted = dict(re.findall(r'^restore_rejected_total\{reason="(\w+)"\} (\S+)$', client.get("/metrics").text, re.M))
    assert {code: float(counted[code]) for code in ("quota_exceeded", "rate_limited")} == {
        "quota_exceeded": 1,
        "rate_limited": 1,
    }


def test_gateways_on_one_redis_share_owners_idempotency_and_accounts(service, keys):
    shared = {"redis_url": shared_server("7").url, "redis_prefix": fresh_prefix()}

    def queue():
        limits = SharedJobLimits(max_queued_photos=16, result_ttl_s=3600)
        return RedisJobQueue(shared["redis_url"], limits, metrics=Metrics(), prefix=shared["redis_prefix"])

    stranger = add_key(keys, "rival", quota_face_px=1)
    first = service({"quota_face_px": 5 * PHOTO_PX}, detector=TWO_FACES, jobs=queue(), **shared)
    second = service({"quota_face_px": 5 * PHOTO_PX}, detector=TWO_FACES, jobs=queue(), **shared)
    where = ask(first, Prefer="respond-async", Idempotency_Key="order-7").headers["location"]
    until(second, where, "succeeded")
    again = ask(second, Idempotency_Key="order-7")
    assert again.headers["location"] == where
    for client in (first, second):
        problem(client.get(where, headers=bearer(stranger)), 404, "not_found")
        assert client.get(f"{where}/result").status_code == 200
    statuses = [client.post("/restore", files={"image": PNG}).status_code for client in (second, first, second)]
    assert statuses == [200, 200, 429]
    told = problem(ask(first, Prefer="respond-async"), 429, "quota_exceeded")
    assert told["spent_face_px"] == 6 * PHOTO_PX


def test_what_cannot_be_counted_is_refused_and_only_that(service, keys, tmp_path):
    client = service({"requests_per_s": 100}, redis_url=f"unix://{tmp_path}/nobody.sock")
    uncounted = add_key(keys, "rival")
    problem(client.get("/v1/limits"), 503, "dependency_unavailable")
    wait_until(lambda: client.get("/v1/limits", headers=bearer(uncounted)).status_code == 200)
    problem(client.get("/v1/limits", headers=bearer(uncounted[:-1])), 401, "unauthenticated")
