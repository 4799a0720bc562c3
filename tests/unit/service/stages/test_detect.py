import numpy as np
import pytest

from service.core.errors import InferenceFailed
from service.core.types import FaceSelection, RestoreOptions
from service.stages.detect import FaceDetector, select_faces
from tests.fakes import face_at
from tests.pictures import pixels

SIZE = (400, 300)
LARGE, MIDDLE, SMALL, TINY = face_at(0, 0, 100), face_at(170, 120, 60), face_at(300, 200, 40), face_at(200, 150, 10)
EVERY = [SMALL, LARGE, TINY, MIDDLE]


def reasons(detected=EVERY, size=SIZE, **options):
    found = select_faces(detected, RestoreOptions(**options), size)
    areas = [face.box[2] - face.box[0] for face, _ in found]
    assert areas == sorted(areas, reverse=True)
    assert {id(face) for face, _ in found} == {id(face) for face in detected}
    return [reason for _, reason in found]


LEFT, OVER, BELOW = "not_selected", "over_max_faces", "below_min_face_px"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [None, None, None, BELOW]),
        ({"faces": FaceSelection.ANY}, [None, None, None, BELOW]),
        ({"faces": FaceSelection.LARGEST}, [None, LEFT, LEFT, BELOW]),
        ({"faces": FaceSelection.CENTER}, [LEFT, None, LEFT, BELOW]),
        ({"faces": FaceSelection.CENTER, "min_face_px": 5}, [LEFT, None, LEFT, LEFT]),
        ({"faces": FaceSelection.CENTER, "size": (640, 440)}, [LEFT, LEFT, None, BELOW]),
        ({"faces": FaceSelection.LARGEST, "max_faces": 1}, [None, LEFT, LEFT, BELOW]),
        ({"max_faces": 2}, [None, None, OVER, BELOW]),
        ({"max_faces": 9, "min_face_px": 1}, [None, None, None, None]),
        ({"min_face_px": 61}, [None, BELOW, BELOW, BELOW]),
        ({"min_face_px": 101}, [BELOW] * 4),
        ({"detected": []}, []),
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


class MadeUpNetwork:
    """A network that sees what `faces_in` says; it notes what it is given.

    A face is the y and x of its middle, its height and width, its score, and the y and x of each landmark by turns, as
    shares of the box.
    """

    def __init__(self, error=None):
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
            for y, x, sides, score, landmarks in self.faces_in(image[row], row):
                cell = int(y // 4), int(x // 4)
                maps["heatmap"][row, 0, *cell] = score
                maps["scale"][row, :, *cell] = np.log(np.array(sides) / 4)
                maps["offset"][row, :, *cell] = y / 4 - cell[0] - 0.5, x / 4 - cell[1] - 0.5
                maps["landmarks"][row, :, *cell] = landmarks
        return maps

    async def ready(self):
        return True

    async def close(self): ...


class BlobNetwork(MadeUpNetwork):
    """Takes a red square for a face, and a cut one for half a face."""

    def __init__(self, score=0.9, error=None):
        super().__init__(error)
        self.score = score

    def faces_in(self, image, row):
        _, high, wide = image.shape
        ys, xs = np.nonzero((image[0] > 200) & (image[1] < 60))
        if len(ys):
            cut = ys.min() == 0 or xs.min() == 0 or ys.max() == high - 1 or xs.max() == wide - 1
            score = self.score / 2 if cut else self.score
            yield (
                (ys.min() + ys.max() + 1) / 2,
                (xs.min() + xs.max() + 1) / 2,
                (np.ptp(ys) + 1, np.ptp(xs) + 1),
                score,
                0.5,
            )


class SoftBlobNetwork(MadeUpNetwork):
    """Takes a soft red blob for a face, wherever it lies between pixels, and a blue one for its chin.

    What it tells of a tilted face is not exact; one that is turned by more than 50 degrees it takes for an upright
    one, and is unsure of it. In a view it sees a neighbour, too, and more clearly.
    """

    def faces_in(self, image, row):
        red, blue = (image[[0, 2]] - image[1]).clip(min=0)  # without the grey around the photo
        y, x = middle_of(red)
        chin_y, chin_x = middle_of(blue)
        side = 6 * np.sqrt(np.average((np.indices(image.shape[1:])[1] + 0.5 - x) ** 2, weights=red))
        tilt = np.arctan2(x - chin_x, chin_y - y)
        is_clear = abs(tilt) < np.radians(50)
        turn = tilt if is_clear else 0.0
        places = np.array([(-0.2, -0.2), (0.2, -0.2), (0, 0), (-0.2, 0.2), (0.2, 0.2)])  # x, y
        off = 0.0 if abs(turn) < np.radians(8) else 0.05
        turned = off + places @ np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
        yield y, x, (side, side), 0.9 if is_clear else 0.3, (0.5 + turned[:, ::-1]).ravel()
        if image.shape[1:] == (128, 128):
            yield 20, 20, (20, 20), 0.95, 0.5


def middle_of(weight):
    return (np.average(grid, weights=weight) + 0.5 for grid in np.indices(weight.shape))


class Proposing(MadeUpNetwork):
    """Proposes faces of the photo at once, as x and y of the middle, side and score; a view shows one in `place`."""

    def __init__(self, proposals, place=(64, 64, 64)):
        super().__init__()
        self.proposals = proposals
        self.place = place

    def faces_in(self, image, row):
        if image.shape[1:] == (128, 128):
            x, y, side = self.place
            yield y, x, (side, side), self.proposals[row][3], 0.5
        elif len(self.shapes) == 1:
            for x, y, side, score in self.proposals:
                yield y + MARGIN_PX, x + MARGIN_PX, (side, side), score, 0.5


MARGIN_PX = 16  # of a photo of 256 x 256 px, in a tile of 288


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


@pytest.mark.parametrize("spread", [7.0, 13.0])
@pytest.mark.parametrize("tilt_degrees", [0, 5, 30, -30, 60, 90, -90, 135, -135, 175, 180])
async def test_landmarks_are_where_they_are_between_pixels(tilt_degrees, spread):
    """A landmark in the middle of the first pixel is at 0, whichever pass has seen it, and however the view lay."""
    middle, turn = np.array([140.3, 118.8]), np.radians(tilt_degrees)
    chin = middle + 2 * spread * np.array([-np.sin(turn), np.cos(turn)])
    ys, xs = np.indices((250, 300))  # of one level
    photo = np.zeros((250, 300, 3))
    for channel, (x, y) in ((0, middle), (2, chin)):
        photo[..., channel] = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * spread**2))
    (face,) = await FaceDetector(SoftBlobNetwork()).detect(
        photo.round().astype(np.uint8), det_threshold=0.5, min_face_px=14
    )
    np.testing.assert_allclose(face.landmarks_5.mean(axis=0), middle, atol=0.1)
    eyes = face.landmarks_5[1] - face.landmarks_5[0]
    off = np.degrees(np.arctan2(eyes[1], eyes[0])) - tilt_degrees
    assert (off + 180) % 360 - 180 == pytest.approx(0, abs=0.5)


async def found_by(network):
    photo = np.zeros((256, 256, 3), np.uint8)
    return [face.box for face in await FaceDetector(network).detect(photo, det_threshold=0.5, min_face_px=14)]


@pytest.mark.parametrize(
    ("x", "y", "count"),
    [
        (1, 150, 1),
        (150, 255, 1),
        (255, 150, 1),
        (-2, 150, 0),
        (258, 150, 0),
        (150, -2, 0),
        (150, 258, 0),
        (258, 258, 0),
    ],
)
async def test_no_face_has_its_middle_beyond_the_border(x, y, count):
    boxes = np.array(await found_by(Proposing([(x, y, 40, 0.9)])))
    assert len(boxes) == count
    assert ((boxes >= 0) & (boxes <= 256)).all()


@pytest.mark.parametrize(
    ("place", "count"), [((64, 64, 64), 1), ((64, 64, 40), 1), ((24, 24, 24), 0), ((110, 64, 20), 0)]
)
async def test_a_view_that_shows_another_face_than_was_proposed_confirms_nothing(place, count):
    assert len(await found_by(Proposing([(150, 150, 40, 0.9)], place))) == count


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        pytest.param((150, 150, 36, 0.8), [40], id="the same face twice"),
        pytest.param((138, 138, 14, 0.8), [40], id="an eye"),
        pytest.param((186, 150, 40, 0.8), [40, 40], id="a neighbour"),
        pytest.param((174, 174, 20, 0.8), [40, 20], id="behind a shoulder"),
    ],
)
async def test_each_face_is_told_once(second, expected):
    boxes = await found_by(Proposing([(150, 150, 40, 0.9), second]))
    assert [right - left for left, _, right, _ in boxes] == pytest.approx(expected, rel=0.1)


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
