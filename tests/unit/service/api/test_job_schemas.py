import json

import pytest
from pydantic import ValidationError

from service.api.job_schemas import JobSchema, NoticeSchema
from service.core.errors import NoFaceFound
from service.core.jobs import Failure, JobState, JobStatus, Progress
from service.core.notices import closing_notice

FAILURE = Failure.of(NoFaceFound("the detector saw none", hint="try faces=any", seen=0))


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_the_documented_notice_is_what_is_sent(state):
    failure = FAILURE if state is JobState.FAILED else None
    notice = closing_notice("job", "https://example.org", state, ended_s=1_700_000_000.25, failure=failure)
    shown = NoticeSchema.model_validate_json(notice.body).model_dump(mode="json", exclude_none=True)
    sent = json.loads(notice.body)
    assert {**shown, "timestamp": None} == {**sent, "timestamp": None}


def test_the_examples_are_valid():
    for schema in (JobSchema, NoticeSchema):
        for example in schema.model_json_schema()["examples"]:
            schema.model_validate(example)


def test_a_job_as_a_client_sees_it():
    status = JobStatus("a", JobState.RUNNING, created_s=1_700_000_000.4, progress=Progress(2, 1, 8, 5))
    shown = JobSchema.of(status).model_dump(mode="json")
    assert shown["created_at"] == "2023-11-14T22:13:20Z"
    assert shown["progress"] == {"num_faces": 2, "faces_done": 1, "num_steps": 8, "steps_done": 5}
    assert (shown["position"], shown["error"], shown["expires_at"]) == (None, None, None)


def test_a_failed_job_has_its_problem_with_everything_it_says():
    status = JobStatus("a", JobState.FAILED, created_s=0.0, expires_s=60.0, failure=FAILURE)
    problem = JobSchema.of(status).model_dump(mode="json")["error"]
    assert problem == {
        "type": "/problems/no_face_found",
        "title": "No face was found",
        "status": 422,
        "detail": "the detector saw none",
        "instance": "/v1/restorations/a",
        "code": "no_face_found",
        "hint": "try faces=any",
        "retryable": False,
        "seen": 0,
    }


def test_a_job_that_has_succeeded_is_a_report():
    with pytest.raises(ValidationError):
        JobSchema.of(JobStatus("a", JobState.SUCCEEDED, created_s=0.0))
