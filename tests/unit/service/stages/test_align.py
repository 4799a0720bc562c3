import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import InvalidOption
from service.core.types import DecodedImage, Face, OutputFormat
from service.stages.align import TEMPLATE_512, align, align_whole, estimate_similarity, template
from service.stages.tone import in_photo
from tests.fakes import face_at
from tests.pictures import pixels


def photo(picture=None, **changes):
    values = pixels(200, 160) if picture is None else picture
    values.setflags(write=False)
    return dataclasses.replace(DecodedImage(values, None, None, None, OutputFormat.PNG, False), **changes)


def similarity(degrees, factor, x, y):
    angle = np.radians(degrees)
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


def moved(affine, points):
    return np.asarray(points) @ affine[:, :2].T + affine[:, 2]


MAPS = st.builds(similarity, st.floats(-180, 180), st.floats(0.05, 20), st.floats(-500, 500), st.floats(-500, 500))


def test_the_template_is_ffhqs_and_scales_about_pixel_borders():
    np.testing.assert_allclose(template(512), TEMPLATE_512)
    np.testing.assert_allclose(template(256), (np.array(TEMPLATE_512) + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(template(1024).mean(axis=0), np.mean(TEMPLATE_512, axis=0) * 2 + 0.5)


@given(MAPS)
def test_a_similarity_is_found_exactly(affine):
    source = template(256)
    np.testing.assert_allclose(estimate_similarity(source, moved(affine, source)), affine, atol=1e-6)


@given(MAPS, st.integers(0, 4), st.floats(-180, 180), st.floats(0.6, 3))
def test_one_wrong_landmark_of_five_does_no_harm(affine, index, degrees, distance):
    source = template(256)
    wrong = source.copy()
    wrong[index] += 256 * distance * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    found = estimate_similarity(wrong, moved(affine, source))
    np.testing.assert_allclose(found, affine, atol=1e-6 * max(1, np.abs(affine).max()))


def test_noise_is_averaged():
    random = np.random.default_rng(0)
    affine = similarity(10, 0.5, 3, 4)
    source = template(256)
    errors = []
    for _ in range(50):
        found = estimate_similarity(source + random.normal(0, 1, (5, 2)), moved(affine, source))
        errors.append(np.abs(moved(found, [(128, 128)]) - moved(affine, [(128, 128)])).max())
    assert np.mean(errors) < 0.5


def test_a_mirrored_face_is_not_mirrored_back():
    source = template(256) * (-1, 1)
    assert np.linalg.det(estimate_similarity(source, template(256))[:, :2]) > 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.full((5, 2), 80.0), template(64)),
        (template(64), np.zeros((5, 2))),
        (np.full((5, 2), np.nan), template(64)),
        (template(64) * np.inf, template(64)),
        (template(64)[:1], template(64)[:1]),
        (template(64)[:4], template(64)),
        (np.zeros((5, 3)), np.zeros((5, 3))),
    ],
)
def test_points_that_tell_nothing(source, target):
    with pytest.raises(ValueError, match=r"points|determine"):
        estimate_similarity(source, target)


@pytest.mark.parametrize("size_px", [64, 256, 512])
def test_landmarks_land_on_the_template(size_px):
    face = face_at(40, 20, 120)
    aligned = align(photo(), face, 7, size_px)
    assert aligned.index == 7
    assert aligned.crop.shape == (size_px, size_px, 3)
    assert aligned.crop.dtype == np.uint8
    assert aligned.face is face
    distance = np.abs(moved(aligned.affine, face.landmarks_5) - template(size_px)).max()
    assert distance < 0.03 * size_px


def test_a_crop_shows_what_lies_beneath():
    x, y = np.meshgrid(np.arange(200), np.arange(160))
    ramps = np.stack([x, y, x // 2 + y // 2], axis=2).astype(np.uint8)
    face = Face((60, 40, 140, 120), moved(similarity(15, 0.5, 70, 30), template(128)).astype(np.float32), 0.9)
    aligned = align(photo(ramps), face, 0, 128)
    for at in ((30, 40), (64, 64), (100, 90)):
        where = moved(similarity(15, 0.5, 70, 30), [at])[0]
        seen = in_photo(aligned.crop / np.float32(255), aligned) * 255
        np.testing.assert_allclose(seen[at[1], at[0], :2], where, atol=1)


def test_sixteen_bits_become_eight():
    deep = photo(pixels(200, 160).astype(np.uint16) * 257)
    shallow = photo()
    faces = [align(each, face_at(40, 20, 100), 0, 64) for each in (deep, shallow)]
    assert faces[0].crop.dtype == np.uint8
    seen = [in_photo(each.crop / np.float32(255), each) * 255 for each in faces]
    assert np.abs(seen[0] - seen[1]).max() < 1.5


def test_crops_are_read_only_and_the_photo_unchanged():
    image = photo()
    before = image.pixels.copy()
    aligned = align(image, face_at(40, 20, 100), 0, 64)
    assert not aligned.crop.flags.writeable
    np.testing.assert_array_equal(image.pixels, before)


def test_a_face_at_the_border_continues_with_its_mirror_image():
    aligned = align(photo(), face_at(-40, 20, 100), 0, 64)
    assert aligned.crop.min() > 20  # no black beyond the border


@pytest.mark.parametrize("face", [face_at(900, 900, 50), Face((0, 0, 9, 9), np.full((5, 2), 5, np.float32), 0.9)])
def test_faces_that_are_none(face):
    with pytest.raises(ValueError, match=r"outside|coincide"):
        align(photo(), face, 0, 64)


def test_memory_depends_on_the_face_and_not_on_the_photo():
    image = photo(np.zeros((3000, 4000, 3), np.uint8))
    tracemalloc.start()
    align(image, face_at(1000, 1000, 200), 0, 256)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 3_000_000


@pytest.mark.parametrize(("width", "height"), [(256, 256), (100, 100), (300, 297), (640, 640)])
def test_a_whole_photo_is_a_crop(width, height):
    aligned = align_whole(photo(pixels(width, height)), 256)
    assert aligned.face is None
    assert aligned.index == 0
    small = align_whole(photo(pixels(width, height)), 64).crop
    assert np.abs(small.astype(int) - align_whole(photo(aligned.crop.copy()), 64).crop).max() <= 6


def test_an_aligned_photo_of_the_right_size_is_taken_as_it_is():
    picture = pixels(256, 256)
    np.testing.assert_array_equal(align_whole(photo(picture), 256).crop, picture)


def test_a_photo_that_is_not_square_is_not_aligned():
    with pytest.raises(InvalidOption, match="200 x 160") as caught:
        align_whole(photo(), 64)
    assert caught.value.extra["option"] == "aligned"
