"""Files through a real gateway, with a fake queue and detector behind it."""

import asyncio
import contextlib
import errno
import gc
from dataclasses import replace

import numpy as np
import pytest

from service.core.admission import Admission
from service.core.errors import NotFound, UnsupportedFormat, UploadTooLarge
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.threads import Threads
from service.core.types import OutputFormat, RestoreOptions
from service.gateway import Gateway
from service.local import files
from service.local.files import FileTask, plan_files, restore_files
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector
from tests.pictures import decoded, encoded, pixels
from tests.processes import until
from tests.seen import Seen

SAFE = RestoreOptions(fidelity=1.0)


@contextlib.contextmanager
def gateway(broker=None, places=4, **settings):
    with Threads(2) as pool:
        yield Gateway(
            broker=broker or EchoBroker(),
            detector=FakeDetector(),
            manifest=tiny_manifest(),
            settings=Settings(**settings),
            metrics=Metrics(),
            pool=pool,
            admission=Admission(places, 0),
        )


async def restored(tasks, options=SAFE, at_once=4, **parts):
    with gateway(**parts) as own:
        return {
            outcome.task.source.name: outcome async for outcome in restore_files(own, tasks, options, at_once=at_once)
        }


async def test_a_photo_is_written_where_it_should_go(tmp_path):
    source, target = tmp_path / "a.png", tmp_path / "new" / "folder" / "b.png"
    source.write_bytes(encoded())
    outcomes = await restored([FileTask(source, target)])
    assert outcomes["a.png"].error is None
    assert outcomes["a.png"].report.faces[0].status == "restored"
    assert np.abs(decoded(target.read_bytes()).astype(int) - pixels()).max() <= 6
    assert [path.name for path in target.parent.iterdir()] == ["b.png"]


async def test_the_suffix_decides_the_encoding(tmp_path):
    source = tmp_path / "a.png"
    source.write_bytes(encoded())
    for suffix, known in ((".jpg", OutputFormat.JPEG), (".WebP", OutputFormat.WEBP)):
        outcomes = await restored([FileTask(source, tmp_path / f"b{suffix}")])
        assert outcomes["a.png"].report.output_format is known


async def test_a_bad_file_does_not_stop_the_others(tmp_path):
    (tmp_path / "good.png").write_bytes(encoded())
    (tmp_path / "text.jpg").write_bytes(b"hello, this is a text")
    (tmp_path / "large.png").write_bytes(bytes(70_000))
    tasks = plan_files(tmp_path, tmp_path / "out", None)
    tasks.append(FileTask(tmp_path / "gone.png", tmp_path / "out" / "gone.png"))
    outcomes = await restored(tasks, max_upload_bytes=60_000)
    errors = {name: type(outcome.error) for name, outcome in outcomes.items()}
    assert errors == {
        "good.png": type(None),
        "text.jpg": UnsupportedFormat,
        "large.png": UploadTooLarge,
        "gone.png": NotFound,
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


async def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    for target in (tmp_path / "file" / "b.png", tmp_path / "folder.png"):
        outcomes = await restored([FileTask(tmp_path / "a.png", target)])
        assert isinstance(outcomes["a.png"].error, NotFound)
        assert "cannot be written" in outcomes["a.png"].error.detail
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


async def test_with_a_full_disk_no_further_photo_is_restored(tmp_path, monkeypatch):
    def full(_path, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_result", full)
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encoded())
    tasks = [FileTask(tmp_path / f"{name}.png", tmp_path / "out" / f"{name}.png") for name in "abc"]
    broker = EchoBroker()
    outcomes = await restored(tasks, broker=broker, at_once=1)
    assert len(broker.jobs) == 1
    told = sorted(outcome.error.detail for outcome in outcomes.values())
    assert "No space left" in told[0]
    assert told[1:] == ["not begun: no result can be written any more"] * 2


async def test_many_photos_keep_to_themselves_and_a_full_service_is_waited_for(tmp_path):
    for seed in range(6):
        (tmp_path / f"{seed}.png").write_bytes(encoded(pixels(seed=seed)))
    outcomes = await restored(plan_files(tmp_path, tmp_path / "out", None), at_once=6, places=2)
    assert all(outcome.error is None for outcome in outcomes.values())
    for seed in range(6):
        result = decoded((tmp_path / "out" / f"{seed}.png").read_bytes())
        assert np.abs(result.astype(int) - pixels(seed=seed)).max() <= 6


async def test_a_photo_that_failed_leaves_no_picture_behind_while_others_are_restored(tmp_path):
    seen = Seen()
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(encoded(pixels(seed=seed)))
    tasks = plan_files(tmp_path, tmp_path / "out", None)
    with gateway() as own:
        watching = replace(own, decode=seen.decode)
        outcomes = restore_files(watching, tasks, RestoreOptions(det_threshold=1.0), at_once=1)
        async with contextlib.aclosing(outcomes):
            told = [await anext(outcomes) for _ in tasks]  # the run has not ended
            gc.collect()
            await asyncio.to_thread(until, lambda: not seen.left)  # a thread may still be on its way out of a call
    assert seen.count == 3
    assert {outcome.error.code for outcome in told} == {"no_face_found"}


async def test_leaving_early_withdraws_what_is_under_way(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    broker = EchoBroker(hold=asyncio.Event())
    with gateway(broker) as own:

        async def walk():
            async for _ in restore_files(own, plan_files(tmp_path, tmp_path / "out", None), SAFE, at_once=1):
                pytest.fail("nothing can be done yet")

        walking = asyncio.create_task(walk())
        await broker.submitted.wait()
        walking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await walking
    assert len(broker.withdrawn) == 1
    assert not (tmp_path / "out").exists()
