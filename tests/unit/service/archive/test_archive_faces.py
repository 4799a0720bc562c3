import asyncio

import numpy as np
import pytest

from service.archive.faces import restore_block
from service.archive.passage import Passage, Task
from service.core.metrics import Metrics
from service.core.types import OutputFormat
from service.sampling.sampler import Sampler
from tests.bundle import tiny_manifest
from tests.fakes import AnalyticBackend, face_job

BAD = 13


@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner


def passage(name, *greys, **fields):
    task = Task(name, name, name, OutputFormat.PNG, name, 7)
    return Passage(
        task, b"file", jobs=tuple(face_job(name, index, grey=grey) for index, grey in enumerate(greys)), **fields
    )


def sampler(backend, slots=4):
    return Sampler(backend, tiny_manifest(), slots, metrics=Metrics())


def is_bad(network, row):
    return network == "estimator" and bool(np.isclose(row, BAD / 255, atol=1e-3).all())


def test_faces_of_many_photos_share_network_calls(runner):
    backend = AnalyticBackend()
    ended = list(restore_block([passage("a", 10, 20), passage("b", 30), passage("c", 40)], sampler(backend), runner))
    assert sorted((one.task.item_id, len(one.restored)) for one in ended) == [("a", 2), ("b", 1), ("c", 1)]
    assert max(backend.rows("velocity")) == 4


def test_every_photo_gets_its_own_faces(runner):
    ended = list(restore_block([passage("a", 10, 20), passage("b", 30)], sampler(AnalyticBackend(), 1), runner))
    greys = {
        (one.task.item_id, face.face_index): round(float(face.posterior_mean.mean()) * 255)
        for one in ended
        for face in one.restored
    }
    assert greys == {("a", 0): 10, ("a", 1): 20, ("b", 0): 30}
    assert [one.data for one in ended] == [b"file", b"file"]


def test_a_portrait_does_not_wait_for_a_group(runner):
    group = passage("group", *range(50, 62))
    ended = restore_block([passage("first", 10), group, passage("last", 20)], sampler(AnalyticBackend()), runner)
    assert next(ended).task.item_id == "first"
    assert [one.task.item_id for one in ended][-1:] != ["first"]


def test_photos_without_faces_pass(runner):
    failed = passage("failed", error={"code": "corrupt_image"})
    ended = list(restore_block([failed, passage("empty")], sampler(AnalyticBackend()), runner))
    assert [one.task.item_id for one in ended] == ["failed", "empty"]


def test_a_face_that_fails_fails_its_photo_alone(runner):
    backend = AnalyticBackend(guilty=is_bad)
    block = [passage("good", 100), passage("bad", BAD, 50, 51, 52), passage("other", 60)]
    ended = {one.task.item_id: one for one in restore_block(block, sampler(backend, 2), runner)}
    assert ended["bad"].error["code"] == "inference_failed"
    assert ended["bad"].restored == ()
    assert [len(ended[name].restored) for name in ("good", "other")] == [1, 1]


def test_a_block_that_is_given_up_leaves_the_slots_free(runner):
    used = sampler(AnalyticBackend())
    ended = restore_block([passage("a", 10), *(passage(f"b{number}", 20, 30) for number in range(6))], used, runner)
    next(ended)
    ended.close()
    assert used.free_slots == 4
    assert len(list(restore_block([passage("c", 10)], used, runner))) == 1
