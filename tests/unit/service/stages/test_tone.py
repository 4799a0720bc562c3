"""Tone: who is stretched, that it is undone, and that nothing of the photo is lost by it."""

import dataclasses

import cv2
import numpy as np
import pytest
from skimage import data

from service.core.types import DecodedImage, Face, OutputFormat, Tone
from service.stages.align import align, template
from service.stages.containers.png_chunks import pack
from service.stages.tone import in_photo, tone_of

SIZE_PX = 256
_POINTS = ((201, 112), (252, 110), (227, 142), (207, 160), (249, 158))  # of the astronaut
_ASTRONAUT = data.astronaut()


def photo(pixels, transfer=13):
    chunks = pack({b"cICP": bytes((9, transfer, 0, 1))})
    return DecodedImage(pixels, None, None, None, OutputFormat.PNG, False, chunks)


def aligned(pixels, **facts):
    face = Face((170, 60, 280, 200), np.array(_POINTS, np.float32), 0.9)
    return align(photo(pixels, **facts), face, 0, SIZE_PX)


def dimmed(gain, offset=0.0, depth=np.uint8):
    most = np.iinfo(depth).max
    return np.rint((_ASTRONAUT / 255 * gain + offset) * most).astype(depth)


def as_seen(face):
    return face.crop.astype(np.float32) / 255


@pytest.mark.parametrize("picture", [_ASTRONAUT, dimmed(0.7), np.full((512, 512, 3), 90, np.uint8)])
def test_ordinary_crops_and_such_without_a_face_are_left_alone(picture):
    face = aligned(picture)
    assert (face.tone, face.beyond) == (Tone(), None)
    same = as_seen(face)
    assert in_photo(same, face) is same


def test_faces_in_pq_have_half_the_range_and_are_stretched():
    faces = [aligned(dimmed(0.6, 0.1, np.uint16), transfer=transfer) for transfer in (13, 16, 18)]
    assert [face.tone.gain > 1.1 for face in faces] == [False, True, False]
    assert aligned(_ASTRONAUT, transfer=16).tone == Tone()  # it has all the range already


@pytest.mark.parametrize(("gain", "offset"), [(0.3, 0.0), (0.1, 0.0), (0.2, 0.5), (0.08, 0.9)])
def test_a_dark_or_faded_face_is_an_ordinary_one_to_the_networks(gain, offset):
    usual, face = aligned(_ASTRONAUT), aligned(dimmed(gain, offset))
    assert face.tone.gain > 1
    assert face.crop.std() > 0.6 * usual.crop.std()
    assert abs(face.crop.mean() - usual.crop.mean()) < 60
    correlation = np.corrcoef(face.crop.ravel().astype(float), usual.crop.ravel())[0, 1]
    assert correlation > 0.97


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(("gain", "offset"), [(0.3, 0.0), (0.1, 0.05), (0.2, 0.7)])
def test_what_the_networks_leave_as_it_is_returns_as_it_was(gain, offset, depth):
    dim = dimmed(gain, offset, depth)
    face = aligned(dim)
    assert face.tone != Tone()
    plain = cv2.warpAffine(
        dim.astype(np.float32) / np.iinfo(depth).max, face.affine, (SIZE_PX, SIZE_PX), flags=cv2.INTER_CUBIC
    )
    inner = np.s_[40:-40, 40:-40]
    assert np.abs(in_photo(as_seen(face), face) - plain)[inner].mean() < 0.004


def test_what_lies_beyond_the_stretch_is_kept():
    backlit = dimmed(0.15)
    backlit[:, :150] = backlit[:, 300:] = 250  # a window behind him
    face = aligned(backlit)
    assert face.tone.gain > 2
    assert face.beyond is not None
    seen = in_photo(as_seen(face), face)
    assert seen.max() == pytest.approx(250 / 255, abs=0.02)
    assert np.median(seen[SIZE_PX // 2 - 20 : SIZE_PX // 2 + 20, 100:156]) < 0.2


def test_sixteen_bits_show_more_in_the_dark_than_eight():
    deep, shallow = (aligned(dimmed(0.03, depth=depth)).crop for depth in (np.uint16, np.uint8))
    assert len(np.unique(deep)) > 2 * len(np.unique(shallow))


def test_colours_keep_their_proportions():
    face = aligned(dimmed(0.2))
    restored = as_seen(face)
    moved = in_photo(restored + np.float32((0.1, 0.0, -0.05)), face) - in_photo(restored, face)
    np.testing.assert_allclose(moved * face.tone.gain, np.broadcast_to((0.1, 0.0, -0.05), moved.shape), atol=1e-5)


def test_the_face_decides_and_not_what_is_around_it():
    around = np.full((SIZE_PX, SIZE_PX, 3), 128, np.uint8)
    around[:20], around[-5:] = 0, 255
    assert tone_of(around) == Tone()  # no face in the middle
    centre = template(SIZE_PX).mean(axis=0).astype(int)
    around[centre[1] - 30 : centre[1] + 30, centre[0] - 30 : centre[0] + 30] = 160
    assert tone_of(around).gain == pytest.approx(0.7 / (32 / 255), rel=0.05)


def test_a_tone_is_undone_by_its_numbers():
    assert dataclasses.astuple(Tone()) == (1.0, 0.0)
    crop = np.float32([0.0, 0.5, 1.0])
    np.testing.assert_allclose(Tone(4.0, -1.0).undo(crop), [0.25, 0.375, 0.5])
