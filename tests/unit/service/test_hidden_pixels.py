"""What detector and networks are shown: nothing that a photo's alpha hides, and no linear light."""

import io

import numpy as np
import pytest
from PIL import Image

from service.core.admission import Admission
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.threads import Threads
from service.core.types import FaceSelection, OutputFormat, RestoreOptions, Upload
from service.gateway import Gateway
from service.stages.containers.png_chunks import pack
from service.stages.containers.png_writer import write_png
from service.stages.decode import DecodeLimits, decode
from service.stages.light import in_light
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector, face_at
from tests.pictures import pixels, saved

SEEN = np.hypot(*np.mgrid[-50:50, -50:50]) < 30
FACE, HIDDEN_FACE = face_at(20, 20, 60), face_at(0, 0, 20)


async def restored(hidden, *, faces=(FACE,), aligned=False):
    """A cut-out with that colour where nothing is seen: restoration, what the detector saw, crops of the networks."""
    picture = np.where(SEEN[:, :, None], pixels(100, 100), np.uint8(hidden))
    cut_out = np.dstack([picture, np.where(SEEN, 255, 0).astype(np.uint8)])
    return await restored_file(saved(Image.fromarray(cut_out), "PNG"), faces=faces, aligned=aligned)


async def restored_file(data, *, faces=(FACE,), aligned=False, fidelity=0.0):
    """The same of a file."""
    upload, shown, broker = Upload(data), [], EchoBroker()
    detector = FakeDetector(lambda pixels: shown.append(pixels) or list(faces))
    options = RestoreOptions(
        output_format=OutputFormat.PNG, seed=1, fidelity=fidelity, faces=FaceSelection.ANY, aligned=aligned
    )
    with Threads(1) as pool:
        gateway = Gateway(broker, detector, tiny_manifest(), Settings(), Metrics(), pool, Admission(1, 0))
        restoration = await gateway.restore(upload, options, job_id="mine")
    return restoration, shown, [job.crop for job in broker.jobs.get("mine", [])]


@pytest.mark.parametrize("aligned", [False, True])
async def test_hidden_colours_are_shown_to_nobody_and_kept(aligned):
    results = []
    for hidden in ((255, 0, 255), (0, 0, 0)):
        restoration, shown, crops = await restored(hidden, aligned=aligned)
        with Image.open(io.BytesIO(restoration.data)) as image:
            result = np.asarray(image)
        assert (result[~SEEN] == (*hidden, 0)).all()
        results.append((result[SEEN], shown, crops))
    (one, seen_one, crops_one), (other, seen_other, crops_other) = results
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(seen_one, seen_other)
    np.testing.assert_array_equal(crops_one, crops_other)
    assert len(crops_one) == 1
    assert len(seen_one) == (0 if aligned else 1)


async def test_a_face_under_alpha_is_not_there():
    restoration, _, crops = await restored((9, 9, 9), faces=(FACE, HIDDEN_FACE))
    assert [face.box for face in restoration.report.faces] == [FACE.box]
    assert len(crops) == 1
    restoration, _, crops = await restored((9, 9, 9), faces=(HIDDEN_FACE,))
    assert restoration.report.faces == ()
    assert crops == []


@pytest.mark.parametrize("aligned", [False, True])
async def test_linear_light_is_shown_as_the_usual_and_comes_back(aligned):
    usual, light = pixels(100, 100), np.rint(in_light(pixels(100, 100) / np.float32(255)) * 65_535).astype(np.uint16)
    _, _, crops_usual = await restored_file(saved(Image.fromarray(usual), "PNG"), aligned=aligned)
    sent = write_png(light, None, None, pack({b"gAMA": (100_000).to_bytes(4, "big")}))
    restoration, seen, crops = await restored_file(sent, aligned=aligned, fidelity=1.0)
    assert len(seen) == (0 if aligned else 1)
    assert all(np.abs(each / 257 - usual).max() < 1 for each in seen)
    assert np.abs(crops[0].astype(int) - crops_usual[0]).max() <= 2  # 8 bits are rounded at each step on their way
    result = decode(Upload(restoration.data), DecodeLimits(10**6, 10**6, 1))
    assert result.pixels.dtype == np.uint16
    assert np.abs(result.pixels - light.astype(int)).mean() / 65_535 < 0.01
