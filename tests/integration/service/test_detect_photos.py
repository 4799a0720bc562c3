"""The real detector on real pictures: scikit-image's astronaut, pasted where and as large as a test wants it."""

import asyncio
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from skimage import data

from service.stages.detect import FaceDetector

MODEL = Path(__file__).resolve().parents[3] / "model_repository" / "detector" / "1" / "model.onnx"
#: The astronaut's head with some room around it, and the width and place of the face in it.
HEAD = np.s_[0:210, 120:330]
FACE_IN_HEAD, FACE_WIDTH_PX = np.array([61.0, 60.0, 148.0, 176.0]), 87

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is absent: make install-dev")


class Session:
    """The plainest backend: one session, one call at a time off the event loop."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    async def infer(self, network, inputs):
        values = await asyncio.to_thread(self.session.run, self.names, dict(inputs))
        return dict(zip(self.names, values, strict=True))

    async def ready(self):
        return True

    async def close(self): ...


@pytest.fixture(scope="module")
def find():
    detector = FaceDetector(Session())

    def run(photo, det_threshold=0.5, min_face_px=24):
        return asyncio.run(detector.detect(photo, det_threshold=det_threshold, min_face_px=min_face_px))

    return run


def head(face_width_px, turn_degrees=0.0):
    picture = resized(data.astronaut()[HEAD], face_width_px / FACE_WIDTH_PX)
    high, wide = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((wide / 2, high / 2), turn_degrees, 1)
    return cv2.warpAffine(picture, turn, (wide, high), borderMode=cv2.BORDER_REPLICATE)


def resized(picture, factor):
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=method)


def scene(width, height):
    return cv2.resize(data.coffee(), (width, height), interpolation=cv2.INTER_CUBIC)


def paste(photo, left, top, face_width_px):
    """Put the head there; gives the face's box."""
    picture = head(face_width_px)
    photo[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return FACE_IN_HEAD * (face_width_px / FACE_WIDTH_PX) + (left, top, left, top)


def assert_is_at(face, box):
    left, top = np.maximum(face.box[:2], box[:2])
    right, bottom = np.minimum(face.box[2:], box[2:])
    shared = max(0, right - left) * max(0, bottom - top)
    union = sum((it[2] - it[0]) * (it[3] - it[1]) for it in (face.box, box)) - shared
    assert shared / union > 0.6


def assert_is_a_face(face):
    """Landmarks where they belong: eyes above the nose above the mouth, left of right."""
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks_5
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_the_astronaut(find):
    (face,) = find(data.astronaut())
    assert face.score > 0.8
    assert_is_at(face, (181, 60, 268, 176))
    expected = [(205, 102), (246, 105), (224, 125), (205, 142), (240, 145)]  # by eye
    np.testing.assert_allclose(face.landmarks_5, expected, atol=4)


@pytest.mark.parametrize("face_width_px", [24, 48, 150, 400])
def test_sizes(find, face_width_px):
    photo = scene(1280, 1024)
    box = paste(photo, 200, 40, face_width_px)
    (face,) = find(photo)
    assert_is_at(face, box)
    assert_is_a_face(face)


def test_a_tiny_face_in_a_large_photo(find):
    photo = scene(4000, 3000)
    box = paste(photo, 2790, 1210, 24)
    (face,) = find(photo)
    assert_is_at(face, box)


@pytest.mark.parametrize(("top", "bottom", "left", "right"), [(40, 200, 165, 285), (70, 185, 175, 275)])
@pytest.mark.parametrize("factor", [0.6, 8.0])
def test_a_face_that_fills_the_photo(find, top, bottom, left, right, factor):
    (face,) = find(resized(data.astronaut()[top:bottom, left:right], factor))
    assert_is_a_face(face)


@pytest.mark.parametrize(
    ("columns", "box"),
    [(np.s_[205:], (0, 60, 63, 176)), (np.s_[:245], (181, 60, 245, 176))],
    ids=["through the left eye", "through the right eye"],
)
def test_a_face_cut_by_the_border(find, columns, box):
    photo = np.ascontiguousarray(data.astronaut()[:, columns])
    (face,) = find(photo)
    assert_is_at(face, box)
    assert face.box[0] >= 0
    assert face.box[2] <= photo.shape[1]


def test_many_faces_each_once_and_the_largest_first(find):
    photo = scene(1500, 1100)
    widths = np.linspace(24, 90, 24).round().astype(int)
    places = [(20 + 245 * (n % 6), 20 + 265 * (n // 6)) for n in range(24)]
    boxes = [paste(photo, left, top, width) for (left, top), width in zip(places, widths, strict=True)]
    faces = find(photo)
    assert len(faces) == 24
    for box in boxes:
        middle = (box[:2] + box[2:]) / 2
        assert_is_at(min(faces, key=lambda face: abs(np.add(face.box[:2], face.box[2:]) / 2 - middle).sum()), box)
    areas = [(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]) for face in faces]
    assert areas == sorted(areas, reverse=True)


def test_more_faces_than_the_service_restores(find):
    crowd = np.tile(head(30), (9, 9, 1))
    assert len(find(crowd)) == 81


@pytest.mark.parametrize("degrees", [-60, -30, 15, 45])
def test_a_tilted_face(find, degrees):
    (face,) = find(head(100, degrees))
    assert tilt_of(face) == pytest.approx(degrees - 3.5, abs=3)  # she holds her head a little tilted


@pytest.mark.parametrize("degrees", [90, 135, 180, 225])
@pytest.mark.parametrize(("face_width_px", "blur_px"), [(30, 0.5), (87, 4)])
def test_a_face_that_lies_on_its_side_or_its_head(find, degrees, face_width_px, blur_px):
    photo = cv2.copyMakeBorder(head(face_width_px), *[100] * 4, cv2.BORDER_CONSTANT, value=(127, 127, 127))
    side_px = photo.shape[0]
    turn = cv2.getRotationMatrix2D(((side_px - 1) / 2, (side_px - 1) / 2), degrees, 1)
    turned = cv2.warpAffine(photo, turn, (side_px, side_px), borderMode=cv2.BORDER_REPLICATE)
    (face,) = find(cv2.GaussianBlur(turned, (0, 0), blur_px))
    assert (tilt_of(face) - degrees + 3.5 + 180) % 360 - 180 == pytest.approx(0, abs=8)


def tilt_of(face):
    """Degrees by which a face is turned against the clock."""
    left_eye, right_eye = face.landmarks_5[:2]
    return np.degrees(np.arctan2(left_eye[1] - right_eye[1], right_eye[0] - left_eye[0]))


def noise():
    return np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "photo",
    [
        pytest.param(noise, id="noise"),
        pytest.param(lambda: np.full((500, 500, 3), 128, np.uint8), id="flat"),
        pytest.param(lambda: np.zeros((64, 64, 3), np.uint8), id="black"),
        pytest.param(data.coffee, id="coffee"),
        pytest.param(lambda: np.repeat(data.coins()[..., None], 3, axis=2), id="coins"),
        pytest.param(lambda: scene(64, 4000), id="high"),
        pytest.param(lambda: scene(4000, 64), id="wide"),
        pytest.param(lambda: scene(1, 1), id="one pixel"),
    ],
)
def test_no_face(find, photo):
    assert find(photo()) == []


def test_a_photo_of_64_px(find):
    photo = resized(data.astronaut()[0:230, 110:340], 64 / 230)
    assert photo.shape == (64, 64, 3)
    (face,) = find(photo)
    assert_is_at(face, np.array([71, 60, 158, 176]) * 64 / 230)


@pytest.mark.parametrize("upright", [True, False])
def test_a_narrow_strip(find, upright):
    photo = scene(64, 4000) if upright else scene(4000, 64)
    box = paste(photo, *((0, 3000) if upright else (3000, 0)), 26)
    (face,) = find(photo)
    assert_is_at(face, box)


def test_a_grey_photo(find):
    grey = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)
    (face,) = find(np.repeat(grey[..., None], 3, axis=2))
    assert_is_at(face, (181, 60, 268, 176))


def test_16_bits_find_what_8_bits_find(find):
    photo = data.astronaut()
    assert_same(find(photo.astype(np.uint16) * 257), find(photo))


def test_the_same_photo_gives_the_same_faces(find):
    photo = scene(900, 700)
    paste(photo, 100, 100, 60)
    assert_same(find(photo), find(photo))
    assert_same(find(np.asfortranarray(photo)), find(photo))


def assert_same(some, others):
    assert [(face.box, face.score) for face in some] == [(face.box, face.score) for face in others] != []
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one.landmarks_5, other.landmarks_5)


def test_the_photo_is_left_alone(find):
    photo = data.astronaut()
    photo.setflags(write=False)
    (face,) = find(photo)
    assert not face.landmarks_5.flags.writeable


def test_the_threshold(find):
    (face,) = find(data.astronaut())
    assert len(find(data.astronaut(), det_threshold=face.score)) == 1
    assert find(data.astronaut(), det_threshold=min(1.0, face.score + 0.01)) == []


async def test_photos_side_by_side_find_their_own_faces():
    detector = FaceDetector(Session())
    photos = [resized(data.astronaut(), factor) for factor in (0.5, 0.7, 0.9)]
    options = {"det_threshold": 0.5, "min_face_px": 24}
    alone = [await detector.detect(photo, **options) for photo in photos]
    together = await asyncio.gather(*(detector.detect(photo, **options) for photo in photos))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
