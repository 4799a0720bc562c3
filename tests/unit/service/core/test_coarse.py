import math

import cv2
import numpy as np
import pytest

from service.core.colour import coarse_shift, with_colour_of
from tests.pictures import pixels

CROP = pixels(128, 128)
SAME = CROP.astype(np.float32) / 255


def changed(where, by):
    picture = SAME.copy()
    picture[where] += np.float32(by)
    return picture


def test_what_is_the_same_is_not_moved():
    assert coarse_shift(SAME, CROP) == pytest.approx(0, abs=0.003)  # cells of 8 bits are rounded


@pytest.mark.parametrize("by", [0.3, -0.3])
def test_a_patch_counts_with_its_whole_change(by):
    assert coarse_shift(changed(np.s_[40:88, 40:88], by), CROP) == pytest.approx(0.3, abs=0.01)


def test_a_colour_alone_counts_with_its_brightness():
    """A face is given the photo's colours: what is left of a green patch is that it is brighter."""
    assert coarse_shift(changed(np.s_[:, :, 1], 0.3), CROP) == pytest.approx(0.3 * 0.587, abs=0.01)


def test_it_is_what_is_seen_once_the_face_has_the_photo_s_colours():
    glaring = np.full((128, 128, 3), (250, 0, 250), np.uint8)
    glaring[24:104, 32:96] = (190, 140, 120)
    paler = glaring.astype(np.float32) / 255 + np.float32((-0.1, 0.1, -0.1))
    seen = cv2.resize(
        with_colour_of(paler, glaring) - glaring / np.float32(255), (32, 32), interpolation=cv2.INTER_AREA
    )
    largest = np.abs(cv2.GaussianBlur(seen, (0, 0), 1, borderType=cv2.BORDER_REFLECT)).max()
    assert coarse_shift(paler, glaring) == pytest.approx(largest, abs=0.01)


def test_detail_does_not_count():
    rough = SAME + np.random.default_rng(0).normal(0, 0.2, SAME.shape).astype(np.float32)
    assert coarse_shift(rough, CROP) < 0.06
    assert coarse_shift(cv2.GaussianBlur(SAME, (0, 0), 2), CROP) < 0.06


def test_what_is_not_pasted_does_not_count():
    assert coarse_shift(changed(np.s_[:6, :, :], 1.0), CROP) < 0.05


def test_what_is_not_finite_is_not_small():
    assert math.isnan(coarse_shift(changed(np.s_[64, 64, 0], np.nan), CROP))
