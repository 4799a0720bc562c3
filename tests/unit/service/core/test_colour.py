import cv2
import numpy as np
import pytest

from service.core.colour import luma, with_colour_of
from tests.pictures import pixels

SIDE_PX = 128


@pytest.fixture
def face():
    """A colour crop, smooth as a face is."""
    return cv2.GaussianBlur(pixels(SIDE_PX, SIDE_PX, seed=4), (0, 0), 16)


def real(crop):
    return crop.astype(np.float32) / 255


def toned(crop, tone):
    """In one tone: luma times a colour."""
    return np.rint(np.clip(luma(real(crop))[:, :, None] * np.float32(tone) * 255, 0, 255)).astype(np.uint8)


def chroma(image):
    return image - luma(image)[:, :, None]


def cast(image, photo):
    """Largest local difference of colour in levels."""
    return np.abs(cv2.GaussianBlur(chroma(image) - chroma(real(photo)), (0, 0), 8)).max() * 255


def test_brightness_is_that_of_the_restored_face(face):
    restored = real(pixels(SIDE_PX, SIDE_PX, seed=5))
    np.testing.assert_allclose(luma(with_colour_of(restored, face)), luma(restored), atol=2e-6)


def test_a_face_of_the_photos_own_colours_hardly_changes(face):
    sharper = real(face) + 0.2 * (real(face) - cv2.GaussianBlur(real(face), (0, 0), 2))
    changed = with_colour_of(sharper.astype(np.float32), face)
    assert np.abs(changed - sharper).max() * 255 < 2
    assert np.sqrt(np.square(changed - sharper).mean()) * 255 < 0.3


@pytest.mark.parametrize("tone", [(1, 1, 1), (1.05, 1, 0.95), (1, 0.86, 0.67), (0.6, 0.8, 1.1)], ids=str)
def test_a_photo_in_one_tone_stays_in_one_tone(face, tone):
    photo = toned(face, tone)
    painted = real(face)  # the network has given the photo all its colours back
    assert cast(painted, photo) > 20
    assert cast(with_colour_of(painted, photo), photo) < 4
    # Nor is there colour in the detail.
    detail = chroma(with_colour_of(painted, photo)) - chroma(real(photo))
    assert np.abs(detail).max() * 255 < 8


def test_noise_in_the_channels_of_a_grey_photo_is_no_colour(face):
    noise = np.random.default_rng(6).normal(0, 1, face.shape)
    photo = np.clip(np.rint(toned(face, (1, 1, 1)) + noise), 0, 255).astype(np.uint8)
    assert np.abs(chroma(with_colour_of(real(face), photo))).max() * 255 < 4


@pytest.mark.parametrize("spread", [0, 3])
def test_grey_stays_grey(face, spread):
    photo = np.repeat(face[:, :, :1] // 2, 3, axis=2) + np.uint8([0, 0, spread])
    restored = with_colour_of(real(face), photo)
    assert (restored == restored[:, :, :1]).all()
    np.testing.assert_allclose(restored[:, :, 0], luma(real(face)), atol=1e-6)


def test_a_restored_face_without_colour_gets_the_coarse_one_of_the_photo(face):
    grey = np.repeat(luma(real(face))[:, :, None], 3, axis=2)
    assert cast(grey, face) > 20
    assert cast(with_colour_of(grey, face), face) < 0.5 * cast(grey, face)


def test_values_that_are_not_finite_stay_so(face):
    restored = real(face)
    restored[3, 4] = np.nan
    assert not np.isfinite(with_colour_of(restored, face)).all()
