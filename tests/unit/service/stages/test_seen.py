"""Seen: what alpha hides is shown to nobody, and what is seen stays as it is."""

import numpy as np
import pytest

from service.core.types import DecodedImage, OutputFormat
from service.stages.seen import as_seen, seen_faces
from tests.fakes import face_at
from tests.pictures import pixels

PHOTO = pixels(161, 121)
DISC = np.hypot(*np.mgrid[-60:61, -80:81]) < 45


def cut_out(hidden, alpha, picture=PHOTO):
    """The photo with other colours where alpha is 0."""
    values = np.where((alpha > 0)[:, :, None], picture, np.asarray(hidden, picture.dtype))
    return DecodedImage(values, alpha, None, None, OutputFormat.PNG, False)


def disc_alpha(dtype=np.uint8):
    return np.where(DISC, np.iinfo(dtype).max, 0).astype(dtype)


@pytest.mark.parametrize("alpha", [None, np.full(PHOTO.shape[:2], 255, np.uint8), np.ones(PHOTO.shape[:2], np.uint8)])
def test_a_photo_without_hidden_pixels_is_itself(alpha):
    image = DecodedImage(PHOTO, alpha, None, None, OutputFormat.PNG, False)
    assert as_seen(image) is image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_hidden_colours_leave_no_trace(dtype):
    picture, alpha = PHOTO.astype(dtype) * dtype(np.iinfo(dtype).max // 255), disc_alpha(dtype)
    black, magenta = (
        as_seen(cut_out(hidden, alpha, picture)) for hidden in (0, np.array([1, 0, 1]) * np.iinfo(dtype).max)
    )
    assert black.pixels.dtype == dtype
    np.testing.assert_array_equal(black.pixels, magenta.pixels)
    np.testing.assert_array_equal(black.pixels[DISC], picture[DISC])
    assert not black.pixels.flags.writeable
    assert black.alpha is alpha


def test_hidden_pixels_take_the_nearest_colours_that_are_seen():
    halves = np.zeros((120, 160, 3), np.uint8)
    halves[:, :80], halves[:, 80:] = (200, 40, 40), (40, 40, 200)
    alpha = np.where(np.abs(np.arange(160) - 79.5) > 40, 255, 0).astype(np.uint8) * np.ones((120, 1), np.uint8)
    filled = as_seen(cut_out((0, 255, 0), alpha, halves)).pixels.astype(int)
    np.testing.assert_allclose(filled[:, 38:44], np.broadcast_to((200, 40, 40), (120, 6, 3)), atol=20)
    np.testing.assert_allclose(filled[:, 116:122], np.broadcast_to((40, 40, 200), (120, 6, 3)), atol=20)
    assert np.abs(np.diff(filled, axis=1)).max() < 30  # no edge anywhere between
    assert filled[:, :, 1].max() <= 41


@pytest.mark.parametrize(("top", "left"), [(0, 0), (301, 203), (390, 290)])
def test_a_few_hidden_pixels_of_a_large_photo_take_the_colours_around_them(top, left):
    slope = np.add.outer(np.arange(400), np.arange(300))[:, :, None] * np.array([0.1, 0.2, 0.3])
    picture, alpha = slope.astype(np.uint8), np.full((400, 300), 255, np.uint8)
    alpha[top : top + 5, left : left + 7] = 0
    filled = as_seen(cut_out((0, 255, 0), alpha, picture)).pixels
    np.testing.assert_array_equal(filled[alpha > 0], picture[alpha > 0])
    np.testing.assert_allclose(filled[alpha == 0].astype(int), picture[alpha == 0], atol=6)


def test_nearly_transparent_pixels_lend_little():
    alpha = disc_alpha()
    plain = as_seen(cut_out(0, alpha)).pixels
    rim = (np.hypot(*np.mgrid[-60:61, -80:81]) < 47) & ~DISC
    alpha[rim] = 1
    values = np.where(rim[:, :, None], np.uint8(255), PHOTO)
    lent = as_seen(cut_out(0, alpha, values)).pixels
    beyond = np.hypot(*np.mgrid[-60:61, -80:81]) > 60
    assert np.abs(lent[beyond].astype(int) - plain[beyond]).mean() < 6


def test_a_photo_of_which_nothing_is_seen_is_black():
    image = cut_out((255, 0, 255), np.zeros(PHOTO.shape[:2], np.uint8))
    assert not as_seen(image).pixels.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 5), (513, 3), (257, 256)])
def test_any_size(shape):
    picture = np.full((*shape, 3), 90, np.uint8)
    alpha = np.zeros(shape, np.uint8)
    alpha[-1, -1] = 255
    np.testing.assert_array_equal(as_seen(cut_out(255, alpha, picture)).pixels, picture)
    alpha[-1, -1] = 0
    assert not as_seen(cut_out(255, alpha, picture)).pixels.any()


def test_a_face_is_there_when_its_middle_can_be_seen():
    alpha = np.full((100, 100), 255, np.uint8)
    alpha[:, :50] = 0
    hidden, seen, half, corner = face_at(2, 30, 40), face_at(55, 30, 40), face_at(30, 30, 40), face_at(99.8, 99.8, 0.2)
    assert seen_faces([hidden, seen, half, corner], alpha) == [seen, half, corner]
    faint = np.where(alpha, 1, 0).astype(np.uint8)
    assert seen_faces([hidden, seen], faint) == [seen]
