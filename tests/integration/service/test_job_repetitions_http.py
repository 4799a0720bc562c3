"""Requests that are sent again, through a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.core.errors import InferenceFailed
from tests.fakes import EchoBroker, HeldBroker
from tests.job_client import ASYNC, PNG, ask, problem, until
from tests.pictures import encoded, pixels
from tests.serving import fake_service


@pytest.fixture(scope="module")
def client():
    with fake_service(max_upload_bytes=1_000_000) as (client, _):
        yield client


def test_a_repetition_means_the_same_job(client):
    key = {"Idempotency_Key": '"5c1f7a52"'}
    first = ask(client, options={"fidelity": "0.5"}, **key)
    again = ask(client, options={"fidelity": "0.50"}, **key)
    unquoted = ask(client, options={"fidelity": "0.5"}, Idempotency_Key="5c1f7a52")
    assert "idempotent-replayed" not in first.headers
    for repeated in (again, unquoted):
        assert repeated.headers["idempotent-replayed"] == "true"
        assert repeated.headers["location"] == first.headers["location"]
        assert repeated.json() == first.json()
    assert ask(client, options={"fidelity": "0.5"}, **ASYNC, **key).json() == first.json()


@pytest.mark.parametrize("change", ["photo", "options"])
def test_another_request_under_the_same_key_is_a_conflict(client, change):
    key = {"Idempotency_Key": f"key of {change}"}
    assert ask(client, **key).status_code == 200
    other = encoded(pixels(seed=3)) if change == "photo" else PNG
    options = {"num_steps": "3"} if change == "options" else None
    problem(ask(client, other, options, **key), 422, "idempotency_conflict")
    assert ask(client, **key).headers["idempotent-replayed"] == "true"


def test_repetitions_at_once_make_one_job():
    broker = HeldBroker()
    with fake_service(broker=broker) as (client, _), ThreadPoolExecutor(6) as crowd:
        answers = list(crowd.map(lambda _: ask(client, **ASYNC, Idempotency_Key="one"), range(6)))
        assert len({answer.headers["location"] for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        broker.go.set()
        until(client, answers[0].headers["location"], "succeeded")
        assert len(broker.jobs) == 1


def test_a_random_seed_is_part_of_the_job_and_not_of_the_request(client):
    first, again = (ask(client, Idempotency_Key="no seed given") for _ in range(2))
    assert first.json()["seed"] == again.json()["seed"]
    assert ask(client).json()["seed"] != ask(client).json()["seed"]


def test_a_job_that_may_be_tried_again_is_tried_again():
    broker = EchoBroker(error=InferenceFailed("a network failed"))
    with fake_service(broker=broker) as (client, _):
        failed = ask(client, Idempotency_Key="one")
        assert problem(failed, 500, "inference_failed")["retryable"]
        broker.error = None
        second = ask(client, Idempotency_Key="one")
        assert second.status_code == 200
        assert "idempotent-replayed" not in second.headers
        assert second.headers["location"] != failed.headers["location"]
        assert ask(client, Idempotency_Key="one").json() == second.json()


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "ta\tb"])
def test_a_malformed_key(client, key):
    problem(ask(client, Idempotency_Key=key), 400, "malformed_request")
