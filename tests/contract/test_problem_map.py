"""Every error of the tree has an HTTP status, a code of its own and an explanation."""

import pytest

from service.api import problems
from service.api.openapi import JOB_PROBLEMS
from service.api.restorations import router
from service.core import errors
from tests.errors import ERRORS


def test_every_error_has_a_status():
    assert set(problems.STATUS) == set(ERRORS)


def test_codes_are_distinct():
    codes = [error.code for error in ERRORS]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", ERRORS)
def test_every_code_is_explained(error):
    assert problems.explanation(error.code)
    assert problems.catalogue()[error.code]["status"] == problems.STATUS[error]


def test_only_overload_and_absence_ask_to_come_back():
    asking = {error.code for error, status in problems.STATUS.items() if status in (429, 503)}
    assert asking == {"rate_limited", "quota_exceeded", "queue_full", "draining", "dependency_unavailable"}


def test_a_result_documents_every_error_that_may_have_ended_its_job():
    answers = next(route.responses for route in router.routes if route.path.endswith("/result"))
    documented = {
        code
        for answer in answers.values()
        for code in answer.get("content", {}).get(problems.MEDIA_TYPE, {}).get("examples", {})
    }
    while_waiting = {error.code for error in (errors.Cancelled, *JOB_PROBLEMS)}
    at_admission = {
        *("empty_upload", "malformed_request", "upload_too_large", "unsupported_media_type", "unsupported_format"),
        *("animated_image", "image_too_small", "invalid_option", "upload_gone", "idempotency_conflict"),
        *("quota_exceeded", "draining"),
    }
    assert documented - {"internal", "not_found", "not_finished"} == while_waiting - at_admission
