"""The canary: many different photos at once, and no face in another's photo."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from tests.pictures import decoded, encoded
from tests.processes import ROOT

PHOTOS = 32
OWN_PHOTOS = 8  # of the bundled networks, which take seconds a face: twice the sampler's slots
SIDE_PX = 320
HEAD = (130, 10, 330, 210)
# Faces of a batch share matrix products, whose sums are ordered by the batch's size: float32 noise, at most a level.
TOLERANCE_LEVELS = 2


def photo(number):
    """One of many portraits: each of another size, place, tint, side and softness."""
    random = np.random.default_rng(number)
    head = Image.fromarray(astronaut()).crop(HEAD)
    if number % 2:
        head = head.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = int(random.integers(140, 260))
    head = head.reduce(int(random.integers(1, 3))).resize((side, side), Image.Resampling.BICUBIC)
    tinted = np.asarray(head) * random.uniform(0.55, 1.0, 3)
    canvas = np.asarray(Image.fromarray(random.integers(60, 200, (4, 4, 3), dtype=np.uint8)).resize((SIDE_PX, SIDE_PX)))
    canvas = canvas.copy()
    left, top = random.integers(0, SIDE_PX - side, 2)
    canvas[top : top + side, left : left + side] = tinted
    return canvas


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_photos_at_once_equal_one_by_one(service, bundle):
    count = OWN_PHOTOS if bundle == ROOT / "model_repository" else PHOTOS
    photos = [photo(number) for number in range(count)]

    def restore(number):
        options = {"seed": str(1000 + number), "fidelity": "0", "num_steps": str(1 + number % 3)}
        files = {"image": ("photo.png", encoded(photos[number]))}
        response = service.client.post("/restore", files=files, data=options)
        assert response.status_code == 200, response.text
        report = service.client.get(response.headers["location"]).json()
        assert report["seed"] == 1000 + number
        assert [face["status"] for face in report["faces"]] == ["restored"], f"photo {number}"
        return decoded(response.content).astype(int), report["faces"][0]["box"]

    alone = [restore(number) for number in range(count)]
    with ThreadPoolExecutor(count) as crowd:
        together = list(crowd.map(restore, range(count)))
    for number, ((result, box), (expected, expected_box)) in enumerate(zip(together, alone, strict=True)):
        assert box == expected_box
        assert np.abs(result - expected).max() <= TOLERANCE_LEVELS, f"photo {number}"
        distances = [np.abs(result - other).mean() for other, _ in alone]
        assert int(np.argmin(distances)) == number
        assert sorted(distances)[1] > 5
        left, top, right, bottom = (round(value) for value in box)
        face = np.s_[max(0, top) : bottom, max(0, left) : right]
        assert (result[face] != photos[number][face]).mean() > 0.5, f"photo {number}: the face is as it was"
        own = [np.abs(result[face].mean((0, 1)) - other[face].mean((0, 1))).max() for other in photos]
        assert own[number] < 25, f"photo {number}: another's face"


def test_the_photos_differ_enough_for_a_swap_to_be_seen():
    photos = [photo(number)[::8, ::8].astype(int) for number in range(PHOTOS)]
    assert min(np.abs(photos[i] - photos[j]).mean() for i in range(PHOTOS) for j in range(i)) > 15
