"""What a photo's alpha hides: neither the detector nor the networks are shown it, and it is not written to."""

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
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector, face_at
from tests.pictures import pixels, saved

SEEN = np.hypot(*np.mgrid[-50:50, -50:50]) < 30
FACE, HIDDEN_FACE = face_at(20, 20, 60), face_at(0, 0, 20)


async def restored(hidden, *, faces=(FACE,), aligned=False):
    """A cut-out with that colour where nothing is seen: restoration, what the detector saw, crops of the networks."""
    picture = np.where(SEEN[:, :, None], pixels(100, 100), np.uint8(hidden))
    upload = Upload(saved(Image.fromarray(np.dstack([picture, np.where(SEEN, 255, 0).astype(np.uint8)])), "PNG"))
    shown, broker = [], EchoBroker()
    detector = FakeDetector(lambda pixels: shown.append(pixels) or list(faces))
    options = RestoreOptions(
        output_format=OutputFormat.PNG, seed=1, fidelity=0.0, faces=FaceSelection.ANY, aligned=aligned
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
