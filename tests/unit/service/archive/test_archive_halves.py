import dataclasses

import numpy as np

from service.archive.halves import Halves
from service.archive.passage import Passage, Task
from service.core.admission import Admission
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.threads import Threads
from service.core.types import FaceSelection, OutputFormat, RestoredFace, RestoreOptions, Upload
from service.gateway import Gateway
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector, face_at
from tests.pictures import decoded, encoded, pixels


def halves(**options):
    return Halves(Settings(), tiny_manifest(), RestoreOptions(**options))


def passage(data, seed=1):
    return Passage(Task("00", "in/a.png", "out/a.png", OutputFormat.PNG, "job", seed), data)


def photo(picture=None):
    return encoded(pixels(64, 64) if picture is None else picture, "PNG")


def inverted(job):
    """What `EchoBroker` makes of a face."""
    crop = job.crop.astype(np.float32) / 255
    return RestoredFace(job.job_id, job.face_index, 1 - crop, crop, {"velocity": 5.0})


async def restored(parts, begun):
    return await parts.finish(dataclasses.replace(begun, restored=tuple(inverted(job) for job in begun.jobs)))


async def test_both_halves_make_what_the_gateway_makes():
    data = photo(pixels(96, 80))
    detector = FakeDetector(lambda _: [face_at(8, 8, 48), face_at(40, 30, 30)])
    with Threads(1) as pool:
        gateway = Gateway(EchoBroker(), detector, tiny_manifest(), Settings(), Metrics(), pool, Admission(1, 0))
        options = RestoreOptions(output_format=OutputFormat.PNG, seed=1)
        whole = await gateway.restore(Upload(data), options, job_id="job")
    begun = await halves().prepare(passage(data), detector)
    ended = await restored(halves(), begun)
    assert [job.key for job in begun.jobs] == [("job", 0), ("job", 1)]
    assert ended.restoration.data == whole.data
    assert dataclasses.replace(ended.restoration.report, timings_ms={}) == dataclasses.replace(
        whole.report, timings_ms={}
    )


async def test_faces_carry_seed_and_steps_and_no_deadline():
    begun = await halves(num_steps=3).prepare(passage(photo(), seed=9), FakeDetector())
    assert [(job.seed, job.num_steps, job.deadline_s) for job in begun.jobs] == [(9, 3, None)]


async def test_a_photo_without_a_face_to_restore_is_finished_by_the_first_half():
    picture = pixels(80, 96)
    data = encoded(picture, "PNG")
    begun = await halves(faces=FaceSelection.ANY).prepare(passage(data), FakeDetector(lambda _: []))
    assert begun.jobs == ()
    assert begun.data == b""
    assert (decoded(begun.restoration.data) == picture).all()


async def test_what_the_gateway_refuses_is_the_photo_s_error():
    no_photo = await halves().prepare(passage(b"hello"), FakeDetector())
    no_face = await halves().prepare(passage(photo()), FakeDetector(lambda _: []))
    assert [ended.error["code"] for ended in (no_photo, no_face)] == ["unsupported_format", "no_face_found"]
    assert no_photo.restoration is None
    assert no_photo.jobs == ()


async def test_a_file_that_has_gone_bad_between_the_halves_is_the_photo_s_error():
    begun = await halves().prepare(passage(photo()), FakeDetector())
    ended = await restored(halves(), dataclasses.replace(begun, data=begun.data[:60]))
    assert ended.error["code"] == "corrupt_image"
    assert ended.restoration is None
