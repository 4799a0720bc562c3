import numpy as np
import pytest

from service.core.types import DecodedImage, FacePreview, OutputFormat
from service.stages.align import align, align_whole
from service.stages.preview import MAX_FACES, MAX_OF_A_FACE, MAX_PREVIEWS, matrix_of, placing, preview_every
from tests.fakes import face_at


def image(height=200, width=200):
    return DecodedImage(np.zeros((height, width, 3), np.uint8), None, None, None, OutputFormat.PNG, is_grey=False)


def at(matrix, u, v):
    a, b, c, d, e, f = matrix
    return a * u + c * v + e, b * u + d * v + f


@pytest.mark.parametrize("num_steps", [1, 2, 5, 13, 14, 100, 1000])
@pytest.mark.parametrize("num_faces", [1, 2, 3, 8, 64])
def test_neither_a_face_nor_a_photo_has_more_than_the_most(num_steps, num_faces):
    every = preview_every(num_steps, num_faces)
    of_a_face = len(range(every, num_steps, every))
    assert of_a_face <= MAX_OF_A_FACE
    assert of_a_face * min(num_faces, MAX_FACES) <= MAX_PREVIEWS
    assert of_a_face >= min(num_steps - 1, 2)


def test_the_landmarks_of_a_crop_are_shown_at_those_of_the_photo():
    face = face_at(40, 60, 90)
    aligned = align(image(), face, 0, 64)
    matrix = matrix_of(aligned)
    for x, y in face.landmarks_5:
        u, v = (aligned.affine @ (x, y, 1) + 0.5) / 64
        assert at(matrix, u, v) == pytest.approx((x + 0.5, y + 0.5), abs=1e-3)


def test_a_photo_that_is_a_face_is_shown_where_it_is():
    matrix = matrix_of(align_whole(image(128, 128), 64))
    assert at(matrix, 0, 0) == pytest.approx((0, 0), abs=1e-9)
    assert at(matrix, 1, 1) == pytest.approx((128, 128), abs=1e-9)


def test_each_preview_gets_the_place_of_its_face():
    faces = [align(image(), face_at(10 + 100 * index, 10 + 80 * index, 60), index, 64) for index in (0, 1)]
    shown = []
    show = placing(faces, shown.append)
    for index in (1, 0):
        show(FacePreview("a", index, 1, 2, b""))
    assert [preview.matrix for preview in shown] == [matrix_of(faces[1]), matrix_of(faces[0])]
