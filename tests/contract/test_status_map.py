"""Every error of the tree has a status of gRPC, with details by which a client can decide."""

import re

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from service.api import problems
from service.core.errors import InvalidOption, QueueFull, ServiceError
from service.rpc import status
from tests.errors import ERRORS

BY_HTTP = {
    400: {"INVALID_ARGUMENT"},
    401: {"UNAUTHENTICATED"},
    404: {"NOT_FOUND"},
    406: {"INVALID_ARGUMENT"},
    409: {"FAILED_PRECONDITION"},
    410: {"CANCELLED"},
    413: {"INVALID_ARGUMENT"},
    415: {"INVALID_ARGUMENT"},
    422: {"INVALID_ARGUMENT", "ALREADY_EXISTS"},
    429: {"RESOURCE_EXHAUSTED"},
    499: {"CANCELLED"},
    500: {"INTERNAL"},
    503: {"UNAVAILABLE"},
    504: {"DEADLINE_EXCEEDED"},
}


def details_of(error):
    found = {}
    for packed in status.status_of(error).details:
        for kind in (ErrorInfo, RetryInfo, BadRequest):
            if packed.Is(kind.DESCRIPTOR):
                found[kind] = kind.FromString(packed.value)
    return found


def test_every_error_has_a_status():
    assert set(status.CODES) == set(ERRORS)


@pytest.mark.parametrize("error", ERRORS)
def test_both_interfaces_say_the_same_of_an_error(error):
    assert status.CODES[error].name in BY_HTTP[problems.STATUS[error]]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_says_its_code(error):
    told = status.status_of(error("it happened", hint="do that", photos=3, faces=[1, 2]))
    info = details_of(error("it happened", hint="do that", photos=3, faces=[1, 2]))[ErrorInfo]
    assert (told.code, told.message) == (status.CODES[error].value[0], "it happened")
    assert (info.reason, info.domain) == (error.code.upper(), "latent-pmrf")
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", info.reason)  # what google.rpc asks of a reason
    assert dict(info.metadata) == {
        "code": error.code,
        "title": error.title,
        "retryable": str(error.retryable).lower(),
        "hint": "do that",
        "photos": "3",
        "faces": "[1, 2]",
    }


def test_a_full_queue_says_when_to_come_back():
    assert details_of(QueueFull("full", retry_after_s=2.5))[RetryInfo].retry_delay.ToMilliseconds() == 2500


def test_a_wrong_option_is_named():
    (violation,) = details_of(InvalidOption("quality: too high", option="quality"))[BadRequest].field_violations
    assert (violation.field, violation.description) == ("options.quality", "quality: too high")


def test_a_problem_says_what_a_status_says():
    error = QueueFull("full", hint="wait", retry_after_s=2, waiting=7)
    problem = status.problem_of(error)
    assert problem.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert (problem.code, problem.title, problem.detail, problem.hint) == ("queue_full", error.title, "full", "wait")
    assert problem.retryable
    assert problem.retry_after.ToSeconds() == 2
    assert problem.metadata["waiting"] == "7"


def test_long_details_fit_into_headers():
    assert len(status.status_of(ServiceError("x" * 100_000)).SerializeToString()) < 4096
