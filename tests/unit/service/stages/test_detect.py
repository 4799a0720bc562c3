import numpy as np
import pytest

from service.core.errors import InferenceFailed
from service.core.types import FaceSelection
from service.stages.detect import FaceDetector, select_faces
from tests.fakes import face_at
from tests.pictures import pixels

SIZE = (400, 300)
LARGE, MIDDLE, SMALL, TINY = face_at(0, 0, 100), face_at(170, 120, 60), face_at(300, 200, 40), face_at(200, 150, 10)
EVERY = [SMALL, LARGE, TINY, MIDDLE]


def reasons(faces=EVERY, selection=FaceSelection.ALL, max_faces=None, min_face_px=24, size=SIZE):
    found = select_faces(faces, selection=selection, max_faces=max_faces, min_face_px=min_face_px, size=size)
    areas = [face.box[2] - face.box[0] for face, _ in found]
    assert areas == sorted(areas, reverse=True)
    assert {id(face) for face, _ in found} == {id(face) for face in faces}
    return [reason for _, reason in found]


LEFT, OVER, BELOW = "not_selected", "over_max_faces", "below_min_face_px"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [None, None, None, BELOW]),
        ({"selection": FaceSelection.ANY}, [None, None, None, BELOW]),
        ({"selection": FaceSelection.LARGEST}, [None, LEFT, LEFT, BELOW]),
        ({"selection": FaceSelection.CENTER}, [LEFT, None, LEFT, BELOW]),
        ({"selection": FaceSelection.CENTER, "min_face_px": 5}, [LEFT, None, LEFT, LEFT]),
        ({"selection": FaceSelection.CENTER, "size": (640, 440)}, [LEFT, LEFT, None, BELOW]),
        ({"selection": FaceSelection.LARGEST, "max_faces": 1}, [None, LEFT, LEFT, BELOW]),
        ({"max_faces": 2}, [None, None, OVER, BELOW]),
        ({"max_faces": 9, "min_face_px": 1}, [None, None, None, None]),
        ({"min_face_px": 61}, [None, BELOW, BELOW, BELOW]),
        ({"min_face_px": 101}, [BELOW] * 4),
        ({"faces": []}, []),
    ],
)
def test_selection(options, expected):
    assert reasons(**options) == expected


@pytest.mark.parametrize(("side", "reason"), [(24.0, None), (23.6, None), (23.4, BELOW)])
def test_sides_are_rounded(side, reason):
    assert reasons([face_at(0, 0, side)]) == [reason]


def test_the_shorter_side_of_what_is_visible_counts():
    cut = face_at(0, 0, 40)
    cut = type(cut)((0.0, 0.0, 20.0, 40.0), cut.landmarks_5, cut.score)
    assert reasons([cut]) == [BELOW]


class BlobNetwork:
    """A network that takes a red square for a face, and a cut one for half a face; it notes what it is given."""

    def __init__(self, score=0.9, error=None):
        self.score = score
        self.error = error
        self.shapes = []

    async def infer(self, network, inputs):
        if self.error is not None:
            raise self.error
        assert network == "detector"
        image = inputs["image"]
        self.shapes.append(image.shape)
        count, _, high, wide = image.shape
        maps = {
            name: np.zeros((count, channels, high // 4, wide // 4), np.float32)
            for name, channels in {"heatmap": 1, "scale": 2, "offset": 2, "landmarks": 10}.items()
        }
        for row in range(count):
            ys, xs = np.nonzero((image[row, 0] > 200) & (image[row, 1] < 60))
            if len(ys):
                y, x = (ys.min() + ys.max() + 1) / 2, (xs.min() + xs.max() + 1) / 2
                cell = int(y // 4), int(x // 4)
                sides = np.array([np.ptp(ys) + 1, np.ptp(xs) + 1])
                cut = ys.min() == 0 or xs.min() == 0 or ys.max() == high - 1 or xs.max() == wide - 1
                maps["heatmap"][row, 0, *cell] = self.score / 2 if cut else self.score
                maps["scale"][row, :, *cell] = np.log(sides / 4)
                maps["offset"][row, :, *cell] = y / 4 - cell[0] - 0.5, x / 4 - cell[1] - 0.5
                maps["landmarks"][row, :, *cell] = 0.5
        return maps

    async def ready(self):
        return True

    async def close(self): ...


def photo_with_square(width, height, left, top, side):
    picture = np.full((height, width, 3), 90, np.uint8)
    picture[top : top + side, left : left + side] = (255, 0, 0)
    return picture


@pytest.mark.parametrize(
    ("size", "square"),
    [
        ((600, 400), (200, 100, 80)),
        ((3000, 2000), (2901, 1903, 60)),
        ((3000, 2000), (1000, 500, 900)),
        ((64, 64), (10, 20, 30)),
        ((64, 1500), (5, 1400, 50)),
    ],
)
async def test_places_are_those_of_the_photo(size, square):
    left, top, side = square
    (face,) = await FaceDetector(BlobNetwork()).detect(
        photo_with_square(*size, *square), det_threshold=0.5, min_face_px=24
    )
    tolerance = 0.02 * side + 0.6
    np.testing.assert_allclose(face.box, [left, top, left + side, top + side], atol=tolerance)
    middle = np.array([left, top]) + side / 2 - 0.5  # landmarks are places of pixel centres
    np.testing.assert_allclose(face.landmarks_5, np.tile(middle, (5, 1)), atol=tolerance)
    assert face.score == pytest.approx(0.9)


@pytest.mark.parametrize(("score", "count"), [(0.49, 0), (0.5, 1)])
async def test_the_threshold_is_the_least_score(score, count):
    photo = photo_with_square(300, 300, 50, 50, 90)
    assert len(await FaceDetector(BlobNetwork(score)).detect(photo, det_threshold=0.5, min_face_px=24)) == count


async def test_a_call_of_the_network_stays_small_however_large_the_photo():
    network = BlobNetwork()
    await FaceDetector(network).detect(np.zeros((3000, 4000, 3), np.uint8), det_threshold=0.5, min_face_px=14)
    assert max(count * high * wide for count, _, high, wide in network.shapes) <= 640_000
    assert all(high % 32 == wide % 32 == 0 for _, _, high, wide in network.shapes)


async def test_a_larger_least_face_costs_less():
    async def cost_px(min_face_px):
        network = BlobNetwork()
        await FaceDetector(network).detect(pixels(3000, 2000), det_threshold=0.5, min_face_px=min_face_px)
        return sum(count * high * wide for count, _, high, wide in network.shapes)

    assert await cost_px(96) < 0.2 * await cost_px(24)
    assert await cost_px(1) == await cost_px(14)


async def test_a_failure_of_the_network_is_passed_on():
    with pytest.raises(InferenceFailed):
        await FaceDetector(BlobNetwork(error=InferenceFailed("detector"))).detect(
            pixels(), det_threshold=0.5, min_face_px=24
        )
