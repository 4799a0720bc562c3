import asyncio
import contextlib
import time
from dataclasses import replace

import numpy as np
import pytest

from service.core.admission import Admission
from service.core.errors import (
    Cancelled,
    CorruptImage,
    DeadlineExceeded,
    DependencyUnavailable,
    Draining,
    ImageTooLarge,
    InferenceFailed,
    InvalidOption,
    NoFaceFound,
    QueueFull,
    TooManyFaces,
    UnsupportedFormat,
)
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.threads import Threads
from service.core.types import Face, FaceSelection, FaceStatus, OutputFormat, RestoreOptions, Upload
from service.gateway import Gateway
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector, face_at
from tests.pictures import decoded, encoded, pixels

EXACT = RestoreOptions(output_format=OutputFormat.PNG, seed=1)


@contextlib.contextmanager
def gateway_with(*, broker=None, detector=None, admission=None, manifest=None, **settings):
    with Threads(2) as pool:
        yield Gateway(
            broker=broker or EchoBroker(),
            detector=detector or FakeDetector(),
            manifest=manifest or tiny_manifest(),
            settings=Settings(**settings),
            metrics=Metrics(),
            pool=pool,
            admission=admission or Admission(4, 4),
        )


def photo(picture=None, kind="PNG"):
    return Upload(encoded(picture, kind))


def opened(restoration):
    return decoded(restoration.data)


def outcomes(restoration):
    return [(face.status.value, face.reason) for face in restoration.report.faces]


async def test_the_posterior_mean_gives_the_photo_back():
    with gateway_with() as gateway:
        restoration = await gateway.restore(photo(), RestoreOptions(fidelity=1.0))
    assert restoration.media_type == "image/png"
    assert np.abs(opened(restoration).astype(int) - pixels()).max() <= 6
    assert restoration.report.faces[0].ind_rmse == 0.0


async def test_the_sample_changes_the_face_and_nothing_else():
    with gateway_with() as gateway:
        restoration = await gateway.restore(photo(), RestoreOptions(fidelity=0.0))
    changed = np.abs(opened(restoration).astype(int) - pixels()).max(axis=2) > 0
    assert changed[30:45, 25:40].mean() > 0.9
    assert not changed[:, 100:].any()


async def test_a_webp_without_loss_loses_nothing_unless_a_quality_is_given():
    upload = Upload(encoded(kind="WEBP", lossless=True))
    with gateway_with() as gateway:
        kept = await gateway.restore(upload, RestoreOptions(fidelity=0.0))
        small = await gateway.restore(upload, RestoreOptions(fidelity=0.0, quality=95))
    assert kept.media_type == small.media_type == "image/webp"
    assert (opened(kept)[:, 100:] == pixels()[:, 100:]).all()
    assert (opened(small)[:, 100:] != pixels()[:, 100:]).any()


async def test_the_report_tells_everything():
    broker = EchoBroker()
    with gateway_with(
        broker=broker, detector=FakeDetector(lambda _: [face_at(8, 8, 48), face_at(70, 20, 40)])
    ) as gateway:
        report = (await gateway.restore(photo(), RestoreOptions(fidelity=0.5), job_id="mine")).report
    assert (report.id, report.model) == ("mine", "tiny@7")
    assert (report.width, report.height) == (120, 100)
    assert (report.num_steps, report.fidelity) == (4, 0.5)
    assert [face.index for face in report.faces] == [0, 1]
    assert [face.status for face in report.faces] == [FaceStatus.RESTORED] * 2
    assert all(0 < face.ind_rmse < 1 for face in report.faces)
    assert len(report.faces[0].landmarks_5) == 5
    assert {"decode", "detect", "align", "blend", "paste", "encode", "velocity", "total"} <= set(report.timings_ms)
    assert report.timings_ms["queue_wait"] == 2.0  # the longer of two
    assert [job.face_index for job in broker.jobs["mine"]] == [0, 1]
    assert {(job.seed, job.num_steps) for job in broker.jobs["mine"]} == {(report.seed, 4)}
    assert all(job.deadline_s is not None for job in broker.jobs["mine"])


async def test_seeds_are_random_unless_given():
    with gateway_with() as gateway:
        drawn = {(await gateway.restore(photo(), RestoreOptions())).report.seed for _ in range(3)}
        assert len(drawn) == 3
        assert (await gateway.restore(photo(), RestoreOptions(seed=2**63 - 1))).report.seed == 2**63 - 1


async def test_ids_cannot_be_guessed():
    with gateway_with() as gateway:
        ids = {(await gateway.restore(photo(), EXACT)).report.id for _ in range(3)}
    assert len(ids) == 3
    assert all(len(job_id) >= 22 for job_id in ids)


async def test_many_photos_at_once_equal_one_by_one():
    photos = [photo(pixels(seed=seed)) for seed in range(8)]
    with gateway_with() as gateway:
        alone = [(await gateway.restore(each, EXACT)).data for each in photos]
        together = await asyncio.gather(*(gateway.restore(each, EXACT) for each in photos))
    assert [restoration.data for restoration in together] == alone


async def test_no_face():
    with gateway_with(detector=FakeDetector(lambda _: [])) as gateway:
        with pytest.raises(NoFaceFound):
            await gateway.restore(photo(), EXACT)
        restoration = await gateway.restore(photo(), RestoreOptions(faces=FaceSelection.ANY))
    assert restoration.report.faces == ()
    np.testing.assert_array_equal(opened(restoration), pixels())


async def test_only_faces_that_are_too_small():
    with gateway_with(detector=FakeDetector(lambda _: [face_at(8, 8, 20)])) as gateway:
        with pytest.raises(NoFaceFound, match="below_min_face_px"):
            await gateway.restore(photo(), EXACT)
        restoration = await gateway.restore(photo(), RestoreOptions(faces=FaceSelection.ANY))
    assert outcomes(restoration) == [("skipped", "below_min_face_px")]


async def test_a_face_with_which_the_networks_went_astray_is_left_as_it_is():
    bright = np.full((96, 96, 3), 230, np.uint8)  # the sample is its inverse
    manifest = tiny_manifest(max_coarse_shift=0.18)
    with gateway_with(manifest=manifest) as gateway:
        restoration = await gateway.restore(photo(bright), RestoreOptions(faces=FaceSelection.ANY, fidelity=0))
        assert outcomes(restoration) == [("skipped", "unreliable")]
        assert restoration.report.faces[0].ind_rmse is None
        np.testing.assert_array_equal(opened(restoration), bright)
        with pytest.raises(NoFaceFound, match="unreliable"):
            await gateway.restore(photo(bright), RestoreOptions(fidelity=0))
        faithful = await gateway.restore(photo(bright), RestoreOptions(fidelity=1))
    assert outcomes(faithful) == [("restored", None)]


async def test_faces_that_are_not_chosen_are_reported():
    two = FakeDetector(lambda _: [face_at(8, 8, 48), face_at(70, 20, 40)])
    with gateway_with(detector=two) as gateway:
        largest = await gateway.restore(photo(), RestoreOptions(faces=FaceSelection.LARGEST))
        limited = await gateway.restore(photo(), RestoreOptions(max_faces=1))
    assert outcomes(largest) == [("restored", None), ("skipped", "not_selected")]
    assert outcomes(limited) == [("restored", None), ("skipped", "over_max_faces")]


async def test_landmarks_that_make_no_face_skip_it_alone():
    nonsense = Face((70.0, 20.0, 110.0, 60.0), np.full((5, 2), 80, np.float32), 0.8)
    with gateway_with(detector=FakeDetector(lambda _: [face_at(8, 8, 48), nonsense])) as gateway:
        restoration = await gateway.restore(photo(), EXACT)
    assert outcomes(restoration) == [("restored", None), ("skipped", "degenerate_landmarks")]


async def test_too_many_faces():
    crowd = FakeDetector(lambda _: [face_at(index, 8, 48) for index in range(5)])
    with gateway_with(detector=crowd, max_faces=4) as gateway:
        with pytest.raises(TooManyFaces) as caught:
            await gateway.restore(photo(), EXACT)
        assert caught.value.extra == {"faces": 5, "max_faces": 4}
        restoration = await gateway.restore(photo(), RestoreOptions(max_faces=4))
    assert outcomes(restoration).count(("restored", None)) == 4


async def test_an_aligned_photo_is_a_face_by_itself():
    square = pixels(100, 100)
    with gateway_with(detector=FakeDetector(lambda _: [])) as gateway:
        restoration = await gateway.restore(photo(square), RestoreOptions(aligned=True))
    (face,) = restoration.report.faces
    assert face.box == (0.0, 0.0, 100.0, 100.0)
    assert (face.landmarks_5, face.score) == (None, None)
    assert opened(restoration).shape == square.shape


async def test_upscale():
    with gateway_with(max_output_px=120 * 100 * 4) as gateway:
        restoration = await gateway.restore(photo(), RestoreOptions(upscale=2.0))
        assert (restoration.report.width, restoration.report.height) == (240, 200)
        assert opened(restoration).shape == (200, 240, 3)
        with pytest.raises(ImageTooLarge, match=r"times 2\.1"):
            await gateway.restore(photo(), RestoreOptions(upscale=2.1))


@pytest.mark.parametrize(("kind", "output_format"), [("WEBP", None), ("PNG", OutputFormat.WEBP)])
async def test_a_result_that_its_format_cannot_hold_is_refused_before_the_work(kind, output_format):
    broker, upload = EchoBroker(), photo(pixels(5000, 64), kind)
    options = RestoreOptions(upscale=3.5, output_format=output_format)
    with gateway_with(broker=broker) as gateway:
        for refusing in (gateway.check, gateway.restore):
            with pytest.raises(InvalidOption, match="at most 16383 pixels a side"):
                await refusing(upload, options)
        assert not broker.jobs
        await gateway.check(upload, RestoreOptions(upscale=3.5, output_format=OutputFormat.PNG))


async def test_a_result_too_large_is_refused_by_the_header():
    with gateway_with(max_output_px=120 * 100 * 4) as gateway:
        assert await gateway.check(photo(), RestoreOptions(upscale=2.0)) == 120 * 100
        with pytest.raises(ImageTooLarge, match=r"times 2\.1"):
            await gateway.check(photo(), RestoreOptions(upscale=2.1))


async def test_the_encoding_is_the_photos_unless_asked():
    with gateway_with() as gateway:
        assert (await gateway.restore(photo(kind="JPEG"), RestoreOptions())).media_type == "image/jpeg"
        asked = RestoreOptions(output_format=OutputFormat.WEBP)
        assert (await gateway.restore(photo(kind="JPEG"), asked)).media_type == "image/webp"


@pytest.mark.parametrize(
    "options", [RestoreOptions(num_steps=21), RestoreOptions(fidelity=2.0), RestoreOptions(max_faces=65)]
)
async def test_options_are_checked_before_any_work(options):
    with gateway_with() as gateway, pytest.raises(InvalidOption):
        await gateway.restore(Upload(b"not a photo"), options)


async def test_refusals_are_counted_by_code():
    with gateway_with() as gateway:
        with pytest.raises(CorruptImage):
            await gateway.restore(Upload(photo().data[:300]), EXACT)
        await gateway.restore(photo(), EXACT)
        text = gateway.metrics.render().decode()
    assert 'restore_rejected_total{reason="corrupt_image"} 1.0' in text
    assert 'restore_faces_total{outcome="restored"} 1.0' in text
    assert "restore_ind_rmse_count 1.0" in text


async def test_a_failure_withdraws_the_rest_of_the_photo():
    broker = EchoBroker(error=InferenceFailed("velocity"))
    with gateway_with(broker=broker) as gateway, pytest.raises(InferenceFailed):
        await gateway.restore(photo(), EXACT, job_id="mine")
    assert broker.withdrawn == ["mine"]


async def test_faces_that_the_queue_has_lost_are_to_be_sent_again_and_not_told_as_cancelled():
    with gateway_with(broker=EchoBroker(error=Cancelled("not in the queue"))) as gateway:
        with pytest.raises(DependencyUnavailable, match="does not know") as lost:
            await gateway.restore(photo(), EXACT)
        assert 'restore_photos_total{outcome="dependency_unavailable"} 1.0' in gateway.metrics.render().decode()
    assert lost.value.retryable


async def test_a_cancelled_call_withdraws_its_faces():
    broker = EchoBroker(hold=asyncio.Event())
    with gateway_with(broker=broker) as gateway:
        call = asyncio.create_task(gateway.restore(photo(), EXACT, job_id="mine"))
        await broker.submitted.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert broker.withdrawn == ["mine"]
        assert gateway.admission.active == 0


async def test_the_deadline_covers_everything():
    broker = EchoBroker(hold=asyncio.Event())
    with gateway_with(broker=broker, request_timeout_s=2.0) as gateway, pytest.raises(DeadlineExceeded):
        await gateway.restore(photo(), EXACT, job_id="mine")
    assert broker.withdrawn == ["mine"]


async def test_a_caller_s_deadline_goes_with_his_faces():
    broker = EchoBroker(hold=asyncio.Event())
    until_s = time.time() + 2.0
    with gateway_with(broker=broker) as gateway, pytest.raises(DeadlineExceeded):
        await gateway.restore(photo(), EXACT, job_id="mine", until_s=until_s)
    assert {job.deadline_s for job in broker.jobs["mine"]} == {until_s}
    assert broker.withdrawn == ["mine"]


async def test_a_caller_s_deadline_does_not_prolong_the_service_s():
    broker = EchoBroker()
    with gateway_with(broker=broker, request_timeout_s=60.0) as gateway:
        latest_s = time.time() + 60.0
        await gateway.restore(photo(), EXACT, job_id="mine", until_s=latest_s + 1000)
        assert latest_s <= broker.jobs["mine"][0].deadline_s < latest_s + 500


class Inherited(EchoBroker):
    """Faces are there already, of a gateway that was lost; so often their deadline has passed."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    async def results(self, job_id, timeout_s, on_progress=None, on_preview=None):
        if len(self.withdrawn) < self.times:
            raise DeadlineExceeded("the deadline passed while the face was queued")
        return await super().results(job_id, timeout_s, on_progress, on_preview)


async def test_faces_of_a_lost_gateway_are_begun_again_with_a_deadline_of_their_own():
    broker = Inherited(1)
    with gateway_with(broker=broker) as gateway:
        restoration = await gateway.restore(photo(), EXACT, job_id="mine")
    assert outcomes(restoration) == [("restored", None)]
    assert broker.withdrawn == ["mine"]


async def test_they_are_begun_again_once():
    broker = Inherited(9)
    with gateway_with(broker=broker) as gateway, pytest.raises(DeadlineExceeded):
        await gateway.restore(photo(), EXACT, job_id="mine")
    assert broker.withdrawn == ["mine", "mine"]


async def test_the_deadline_covers_the_line():
    admission = Admission(1, 1)
    with gateway_with(admission=admission, request_timeout_s=0.1) as gateway:
        async with admission.place():
            with pytest.raises(DeadlineExceeded):
                await gateway.restore(photo(), EXACT)
        assert admission.waiting == 0


async def test_a_file_that_is_bound_to_fail_is_refused_by_its_header():
    with gateway_with(max_upload_bytes=10_000_000) as gateway:
        await gateway.check(photo(), EXACT)
        with pytest.raises(CorruptImage):
            await gateway.check(Upload(photo().data[:-20]), EXACT)
        with pytest.raises(UnsupportedFormat):
            await gateway.check(Upload(b"not a photo"), EXACT)
        with pytest.raises(InvalidOption):
            await gateway.check(photo(), RestoreOptions(num_steps=21))


async def test_a_queue_that_cannot_be_told_does_not_hide_why_it_was_left():
    class Away(EchoBroker):
        async def cancel(self, job_id):
            raise DependencyUnavailable("the queue does not answer")

    held = Away(hold=asyncio.Event())
    with gateway_with(broker=held, request_timeout_s=0.2) as gateway, pytest.raises(DeadlineExceeded):
        await gateway.restore(photo(), EXACT)
    with gateway_with(broker=Away(error=InferenceFailed("velocity"))) as gateway, pytest.raises(InferenceFailed):
        await gateway.restore(photo(), EXACT)


async def test_outcomes_are_counted():
    broker = EchoBroker(hold=asyncio.Event())
    with gateway_with(broker=broker) as gateway:
        call = asyncio.create_task(gateway.restore(photo(), EXACT))
        await broker.submitted.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        broker.hold.set()
        await gateway.restore(photo(), EXACT)
        with pytest.raises(CorruptImage):
            await gateway.restore(Upload(photo().data[:300]), EXACT)
        gateway.admission.close()
        with pytest.raises(Draining):
            await gateway.restore(photo(), EXACT)
        text = gateway.metrics.render().decode()
    for outcome in ("succeeded", "corrupt_image", "cancelled"):
        assert f'restore_photos_total{{outcome="{outcome}"}} 1.0' in text


async def test_no_room_and_shutting_down():
    admission = Admission(1, 0)
    with gateway_with(admission=admission) as gateway:
        async with admission.place():
            with pytest.raises(QueueFull):
                await gateway.restore(photo(), EXACT)
        admission.close()
        with pytest.raises(Draining):
            await gateway.restore(photo(), EXACT)


async def test_a_face_keeps_its_detail_unless_the_caller_chooses_the_fidelity():
    halfway = tiny_manifest().model_copy(update={"default_fidelity": 0.5})
    with gateway_with(manifest=halfway) as gateway:  # half inverted, a face has no detail at all
        left = await gateway.restore(photo(), EXACT)
        chosen = await gateway.restore(photo(), replace(EXACT, fidelity=0.5))
    assert [(one.report.fidelity, one.report.faces[0].fidelity) for one in (left, chosen)] == [(0.5, 1.0), (0.5, 0.5)]
    assert left.report.faces[0].ind_rmse == chosen.report.faces[0].ind_rmse > 0
