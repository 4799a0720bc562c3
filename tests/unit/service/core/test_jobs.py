import json

import pytest

from service.core import errors
from service.core.errors import QueueFull, ServiceError
from service.core.jobs import Failure, JobState
from service.core.notices import closing_notice
from tests.errors import ERRORS


@pytest.mark.parametrize("kind", ERRORS)
def test_a_failure_gives_its_error_back(kind):
    error = Failure.of(kind("what happened", hint="what to do", limit=3)).to_error()
    assert type(error) is kind
    assert (error.detail, error.hint, error.extra) == ("what happened", "what to do", {"limit": 3})


def test_a_failure_of_another_version_is_a_plain_error():
    error = Failure("unheard_of", "what happened").to_error()
    assert type(error) is ServiceError
    assert error.detail == "what happened"


def test_a_failure_keeps_its_own_copy_of_the_values():
    error = QueueFull("full", retry_after_s=3)
    failure = Failure.of(error)
    error.extra["retry_after_s"] = 4
    assert failure.extra == {"retry_after_s": 3}


def test_only_ends_are_final():
    assert [state.value for state in JobState if state.final] == ["succeeded", "failed", "cancelled"]


def test_a_notice_says_how_a_job_ended_and_where_its_result_is():
    notice = closing_notice("j", "https://example.org/hook", JobState.SUCCEEDED, ended_s=1_700_000_000.25)
    assert (notice.notice_id, notice.url, notice.attempt) == ("msg_j", "https://example.org/hook", 0)
    assert json.loads(notice.body) == {
        "type": "restoration.succeeded",
        "timestamp": "2023-11-14T22:13:20.250Z",
        "data": {
            "id": "j",
            "status": "succeeded",
            "urls": {"report": "/v1/restorations/j", "result": "/v1/restorations/j/result"},
        },
    }


def test_a_notice_of_a_failure_has_its_code_and_no_result():
    failure = Failure.of(errors.NoFaceFound("the detector saw none"))
    notice = closing_notice("j", "https://example.org", JobState.FAILED, ended_s=0.0, failure=failure)
    document = json.loads(notice.body)
    assert document["type"] == "restoration.failed"
    assert document["data"]["error"] == {"code": "no_face_found", "detail": "the detector saw none"}
    assert "result" not in document["data"]["urls"]
