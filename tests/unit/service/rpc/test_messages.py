"""What messages say is what the service means."""

import pytest

from service.core.errors import InferenceFailed, InvalidOption
from service.core.jobs import Failure, JobState, JobStatus, Progress
from service.core.options import OptionLimits
from service.core.types import (
    Background,
    FaceReport,
    FaceSelection,
    FaceStatus,
    OutputFormat,
    Report,
    RestoreOptions,
)
from service.rpc import restoration_pb2 as pb
from service.rpc.messages import job_of, options_of, parts_of, report_of

LIMITS = OptionLimits(max_num_steps=50, max_faces=64)
FACE = FaceReport(0, (1.0, 2.0, 3.0, 4.0), ((1.0, 2.0),) * 5, 0.9, FaceStatus.SKIPPED, "not_selected")
REPORT = Report("id", "tiny@7", 3, 2, 2**63 - 1, 10, 0.5, (FACE,), {"total": 1.5}, OutputFormat.WEBP)


def test_options_left_out_are_the_defaults():
    assert options_of(pb.RestoreOptions(), LIMITS) == RestoreOptions()


def test_every_option_arrives():
    message = pb.RestoreOptions(
        fidelity=0,
        num_steps=5,
        seed=2**63 - 1,
        faces=pb.FACE_SELECTION_CENTER,
        max_faces=2,
        det_threshold=0,
        min_face_px=30,
        aligned=False,
        upscale=2.5,
        background=pb.BACKGROUND_NONE,
        output_format=pb.OUTPUT_FORMAT_WEBP,
        quality=80,
    )
    assert options_of(message, LIMITS) == RestoreOptions(
        fidelity=0.0,
        num_steps=5,
        seed=2**63 - 1,
        faces=FaceSelection.CENTER,
        max_faces=2,
        det_threshold=0.0,
        min_face_px=30,
        aligned=False,
        upscale=2.5,
        background=Background.NONE,
        output_format=OutputFormat.WEBP,
        quality=80,
    )


@pytest.mark.parametrize(
    ("message", "option"),
    [
        (pb.RestoreOptions(num_steps=51), "num_steps"),
        (pb.RestoreOptions(max_faces=65), "max_faces"),
        (pb.RestoreOptions(background=77), "background"),
        (pb.RestoreOptions(upscale=float("inf")), "upscale"),
    ],
)
def test_a_wrong_option_is_named(message, option):
    with pytest.raises(InvalidOption) as caught:
        options_of(message, LIMITS)
    assert caught.value.extra["option"] == option


def test_a_report_has_everything():
    message = report_of(REPORT, 99.6)
    assert (message.id, message.model, message.seed) == ("id", "tiny@7", 2**63 - 1)
    assert (message.width, message.height, message.output_format) == (3, 2, pb.OUTPUT_FORMAT_WEBP)
    assert dict(message.timings_ms) == {"total": 1.5}
    assert message.expires_at.seconds == 100
    (face,) = message.faces
    assert (face.box.left, face.box.top, face.box.right, face.box.bottom) == FACE.box
    assert [(point.x, point.y) for point in face.landmarks_5] == list(FACE.landmarks_5)
    assert (face.status, face.reason, face.HasField("ind_rmse")) == (pb.FACE_STATUS_SKIPPED, "not_selected", False)
    assert not report_of(REPORT, None).HasField("expires_at")


def test_jobs_say_where_they_are():
    waiting = job_of(JobStatus("id", JobState.QUEUED, created_s=5.0, position=0))
    assert (waiting.status, waiting.position, waiting.HasField("position")) == (pb.JOB_STATUS_QUEUED, 0, True)
    running = job_of(JobStatus("id", JobState.RUNNING, created_s=5.0, progress=Progress(3, 1, 30, 17)))
    assert (running.progress.steps_done, running.HasField("position")) == (17, False)
    failure = Failure.of(InferenceFailed("not finite"))
    failed = job_of(JobStatus("id", JobState.FAILED, created_s=5.0, expires_s=9.0, failure=failure))
    assert (failed.error.code, failed.error.retryable, failed.expires_at.seconds) == ("inference_failed", True, 9)
    done = job_of(JobStatus("id", JobState.SUCCEEDED, created_s=5.0, expires_s=9.0, report=REPORT))
    assert (done.id, done.status, done.report.id) == ("id", pb.JOB_STATUS_SUCCEEDED, "id")
    assert (done.expires_at.seconds, done.report.expires_at.seconds) == (9, 9)


@pytest.mark.parametrize("size", [0, 1, 60_000, 64_512, 64_513, 200_000])
def test_parts_fit_into_messages_and_are_the_image(size):
    data, report = bytes(range(256)) * (size // 256) + bytes(size % 256), report_of(REPORT, None)
    parts = list(parts_of(data, report, 65_536))
    assert b"".join(parts) == data
    assert pb.GetResultResponse(report=report, size_bytes=size, data=parts[0]).ByteSize() <= 65_536
    assert all(0 < len(part) <= 65_536 - 1024 for part in parts[1:])


def test_a_report_that_fills_a_message_leaves_no_room_for_the_image_beside_it():
    crowd = Report("id", "tiny@7", 3, 2, 1, 10, 0.5, (FACE,) * 1000, {}, OutputFormat.WEBP)
    first, second = parts_of(b"image", report_of(crowd, None), 65_536)
    assert (first, second) == (b"", b"image")
