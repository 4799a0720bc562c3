"""The CPU stages without Ray: a photo that nobody has thought of fails alone."""

import asyncio
import dataclasses
import json
import os

import numpy as np
import pytest

from service.archive.passage import Passage, Task
from service.core.errors import ManifestMismatch
from service.core.manifest import load_manifest
from service.core.settings import Settings
from service.core.types import FaceSelection, OutputFormat, RestoredFace, RestoreOptions
from tests.bundle import tiny_manifest, write_bundle
from tests.fakes import FakeDetector, face_at
from tests.pictures import encoded, pixels

pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install --editable '.[ray]'")
places = pytest.importorskip("service.archive.places")
stages = pytest.importorskip("service.archive.stages")

LATIN_1 = os.fsdecode(b"caf\xe9.png")
ODD_PX = 71


def find(picture):
    if ODD_PX in picture.shape:
        raise ValueError("a defect")
    return [face_at(8, 8, 48)]


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    source, target = places.Place.of(str(tmp_path / "in")), places.Place.of(str(tmp_path / "out"))
    options = RestoreOptions(faces=FaceSelection.ANY)
    with asyncio.Runner() as runner:
        monkeypatch.setattr(stages, "_detecting", lambda _settings, _tag: (runner, FakeDetector(find)))
        yield stages.Work(Settings(decoder_children=0), tiny_manifest(), options, source, target)


def task(work, name, side_px=64):
    path = f"{work.source.root}/{name}"
    with open(path, "wb") as file:
        file.write(encoded(pixels(64, side_px), "PNG"))
    return Task(name, path, f"{work.target.root}/{name}", OutputFormat.PNG, name, 1)


def prepared(work, *tasks):
    return [passage for column in stages.prepare_block({stages.PHOTO: tasks}, work) for passage in column[stages.PHOTO]]


def finished(work, *passages):
    rows = stages.finish_block({stages.PHOTO: passages}, work)
    return [json.loads(ending) for row in rows for ending in row[stages.ENDING]]


def with_faces(passage):
    crops = [(job, job.crop.astype(np.float32) / 255) for job in passage.jobs]
    faces = tuple(RestoredFace(job.job_id, job.face_index, crop, crop, {"velocity": 1.0}) for job, crop in crops)
    return dataclasses.replace(passage, restored=faces)


def test_a_name_in_latin_1_is_a_name_like_any_other(work, tmp_path):
    begun = prepared(work, task(work, LATIN_1), task(work, "a.png"))
    assert [(one.error, len(one.jobs)) for one in begun] == [(None, 1), (None, 1)]
    ended = finished(work, *map(with_faces, begun))
    assert [(one["item_id"], one["error"]) for one in ended] == [(LATIN_1, None), ("a.png", None)]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", LATIN_1]


def test_a_defect_over_one_photo_is_its_own_error_in_the_first_stage(work, caplog):
    begun = prepared(work, task(work, "odd.png", ODD_PX), task(work, "a.png"))
    assert [one.error and one.error["code"] for one in begun] == ["internal", None]
    assert "a defect" in caplog.text


def test_a_photo_that_cannot_be_read_may_be_another_time(work):
    gone, here = task(work, "gone.png"), task(work, "a.png")
    os.unlink(gone.source)
    begun = prepared(work, gone, here)
    assert [one.error and (one.error["code"], one.error["retryable"]) for one in begun] == [("unreadable", True), None]


def test_a_defect_over_one_photo_is_its_own_error_in_the_last_stage(work, caplog):
    first, second = prepared(work, task(work, "a.png"), task(work, "b.png"))
    ended = finished(work, first, with_faces(second))  # the restored face of the first is nowhere
    assert [one["error"] and one["error"]["code"] for one in ended] == ["internal", None]
    assert "KeyError" in caplog.text


def test_what_has_failed_passes(work):
    failed = Passage(task(work, "a.png"), error={"code": "corrupt_image"})
    assert [one["error"] for one in finished(work, failed)] == [{"code": "corrupt_image"}]


def test_another_bundle_on_a_machine_of_the_cluster_restores_nothing(work, tmp_path):
    here = load_manifest(write_bundle(tmp_path / "bundle", version="2"))
    other = here.model_copy(update={"version": "1"})
    settings = Settings(model_repository=tmp_path / "bundle")
    with pytest.raises(ManifestMismatch, match=rf"{here.tag}, the batch is for {other.tag}"):
        stages.FaceRestorer(dataclasses.replace(work, settings=settings, manifest=other))
