"""Each photo's line in the log, and its span."""

import asyncio
import logging

import pytest

from service.core.errors import NoFaceFound
from service.core.photo_log import PhotoLog, photo_log
from service.core.types import Lane
from tests.job_queues import result_of
from tests.kept_spans import kept_spans


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "service")
    return lambda: [record.fields for record in caplog.records]


def test_a_photo_that_is_restored_tells_what_was_done(told):
    restoration = result_of("a")
    with kept_spans() as kept, photo_log(Lane.BATCH) as log:
        log.note(width_px=640, height_px=480)
        assert log.restored(restoration) is restoration
    (fields,) = told()
    assert fields.pop("duration_ms") >= 0
    known = {"width_px": 640, "height_px": 480, "faces": 1, "skipped": 1, "num_steps": 10}
    assert fields == {"outcome": "succeeded", "lane": "batch", **known}
    attributes = {f"restore.{name}": value for name, value in fields.items()}
    assert dict(kept.named("gateway").attributes) == attributes


def test_one_whose_end_is_not_known_yet_is_told_by_who_keeps_its_log(told):
    kept = PhotoLog(Lane.BATCH)
    for _ in range(2):
        with photo_log(Lane.BATCH, kept) as log:
            log.note(width_px=640, height_px=480)
    assert told() == []
    kept.tell("abandoned")
    (fields,) = told()
    assert (fields["outcome"], fields["lane"], fields["width_px"]) == ("abandoned", "batch", 640)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(NoFaceFound("none"), "no_face_found"), (asyncio.CancelledError(), "cancelled"), (KeyError("x"), "internal")],
)
def test_one_that_is_not_tells_why_by_a_code(told, error, outcome):
    def fail():
        with photo_log(Lane.INTERACTIVE) as log:
            log.note(width_px=64, height_px=48)
            raise error

    with pytest.raises(type(error)):
        fail()
    (fields,) = told()
    assert (fields["outcome"], fields["width_px"]) == (outcome, 64)
