import json

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.api import problems
from service.core import tracing
from service.core.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    Draining,
    InferenceFailed,
    InvalidOption,
    NotFinished,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    ServiceError,
    Unauthenticated,
)


@pytest.fixture
def request_():
    return Request({"type": "http", "method": "POST", "path": "/restore", "headers": [], "query_string": b""})


def body(response):
    return json.loads(response.body)


def test_a_problem_has_every_member(request_):
    error = InvalidOption("fidelity=2", hint="0 to 1", option="fidelity", allowed={"maximum": 1})
    response = problems.of_service_error(request_, error)
    document = body(response)
    assert response.media_type == "application/problem+json"
    assert document.pop("instance").startswith("urn:uuid:")
    assert document == {
        "type": "/problems/invalid_option",
        "title": "An option is invalid",
        "status": 422,
        "detail": "fidelity=2",
        "code": "invalid_option",
        "hint": "0 to 1",
        "retryable": False,
        "option": "fidelity",
        "allowed": {"maximum": 1},
    }


def test_a_full_queue_says_when_to_come_back(request_):
    response = problems.of_service_error(request_, QueueFull("full", retry_after_s=2.3))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (NotFinished("not yet"), "1"),
        (RateLimited("slower"), "1"),
        (QuotaExceeded("spent"), "60"),
        (QueueFull("full"), "1"),
        (QueueFull("full", retry_after_s=0), "1"),
        (QueueFull("full", retry_after_s=2.0), "2"),
        (QueueFull("full", retry_after_s=2.01), "3"),
        (Draining("going"), "5"),
        (DependencyUnavailable("away"), "5"),
        (DependencyUnavailable("away", retry_after_s=30), "30"),
        (DeadlineExceeded("late"), None),
        (InferenceFailed("velocity"), None),
        (InvalidOption("no", retry_after_s=3), None),
    ],
    ids=lambda value: value.code if isinstance(value, ServiceError) else value,
)
def test_who_may_come_back_is_told_when_in_whole_seconds(request_, error, wait):
    assert problems.of_service_error(request_, error).headers.get("retry-after") == wait


def test_who_has_no_key_is_told_what_kind_is_asked_for(request_):
    headers = problems.of_service_error(request_, Unauthenticated("no key")).headers
    assert headers["www-authenticate"] == 'Bearer realm="latent-pmrf"'
    assert "www-authenticate" not in problems.of_service_error(request_, RateLimited("slower")).headers


def test_no_problem_is_kept_by_anybody(request_):
    for answer in (problems.of_service_error, problems.of_defect):
        assert answer(request_, InvalidOption("no")).headers["cache-control"] == "no-store"


def test_a_defect_tells_nothing_but_leads_to_the_log(request_, caplog):
    defect = RuntimeError("password is swordfish")
    response = problems.of_defect(request_, defect)
    assert tracing.TOLD in vars(defect)
    document = body(response)
    assert response.status_code == 500
    assert document["code"] == "internal"
    assert b"swordfish" not in response.body
    assert document["instance"] in caplog.text
    assert "swordfish" in caplog.text


def test_our_own_failures_are_logged_and_the_callers_are_not(request_, caplog):
    problems.of_service_error(request_, InvalidOption("no"))
    assert caplog.text == ""
    problems.of_service_error(request_, InferenceFailed("velocity"))
    assert "inference_failed" in caplog.text


def test_what_is_no_text_is_told_as_far_as_it_is_text(request_):
    response = problems.of_service_error(request_, InvalidOption("no option \udc80 é", option="\ud800"))
    assert (body(response)["detail"], body(response)["option"]) == ("no option ? é", "?")


def test_an_extra_value_cannot_replace_a_member(request_):
    document = body(problems.of_service_error(request_, InvalidOption("no", status=200, limit=3)))
    assert document["status"] == 422
    assert document["limit"] == 3


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (405, "method_not_allowed"), (400, "invalid_input"), (501, "internal")]
)
def test_what_the_framework_refuses_has_a_code_that_is_explained(request_, status, code):
    response = problems.of_http_exception(request_, HTTPException(status, headers={"Allow": "GET"}))
    assert response.status_code == body(response)["status"] == status
    assert body(response)["code"] == code
    assert response.headers["allow"] == "GET"
    assert problems.explanation(code)
