"""Finer: beside a face that is larger than its crop the photo keeps what the crop cannot hold."""

from dataclasses import replace

import numpy as np
import pytest

from service.core.types import AlignedFace, Background, DecodedImage, Face, OutputFormat
from service.stages.align import align, align_whole, template
from service.stages.finer import finer_kept
from service.stages.paste import face_mask, paste
from service.stages.tone import in_photo
from service.stages.warp import warp
from tests.fakes import face_at
from tests.pictures import pixels

SIZE_PX = 64
MIDDLE = (SIZE_PX // 2, SIZE_PX // 2)
LEFT_EDGE = (SIZE_PX // 2, 6)


def spanning(span_px):
    """A face of which a crop pixel spans so many pixels of the photo."""
    affine = np.array([[1 / span_px, 0, 0], [0, 1 / span_px, 0]])
    return AlignedFace(0, face_at(0, 0, 9), pixels(SIZE_PX, SIZE_PX), affine)


def speckled(dtype=np.uint8):
    """A photo of soft blots under the finest noise, and its face, of which a crop pixel spans four pixels."""
    top_level = np.iinfo(dtype).max
    noise = np.random.default_rng(0).normal(0, 0.06, (280, 300, 1))
    picture = np.rint(((pixels(300, 280) / 255 * 0.7 + 0.15) + noise).clip(0, 1) * top_level).astype(dtype)
    landmarks = (template(SIZE_PX) - (SIZE_PX - 1) / 2) * 4 + (150, 140)
    image = DecodedImage(picture, None, None, None, OutputFormat.PNG, False)
    return image, align(image, Face((149, 139, 151, 141), landmarks.astype(np.float32), 0.9), 0, SIZE_PX)


def as_it_was(aligned):
    return in_photo(aligned.crop.astype(np.float32) / 255, aligned)


def pasted(image, aligned, restored, upscale=1.0):
    return paste(image, [(aligned, restored)], upscale=upscale, background=Background.LANCZOS).pixels


def placed(weight, aligned, shape, upscale=1.0):
    """A weight of the crop where it lies in the result."""
    affine = np.linalg.inv(np.vstack([aligned.affine, (0, 0, 1)]))[:2] * upscale
    affine[:, 2] += (upscale - 1) / 2
    inside = warp(np.ones_like(weight), affine, shape[1], shape[0])  # the mirror image beyond is none of it
    return warp(weight, affine, shape[1], shape[0]) * inside


@pytest.mark.parametrize("span_px", [0.2, 0.99, 1.0])
def test_a_face_no_larger_than_its_crop_keeps_nothing(span_px):
    assert finer_kept(spanning(span_px)) is None


def test_a_photo_that_was_itself_the_crop_keeps_nothing():
    image = DecodedImage(pixels(256, 256), None, None, None, OutputFormat.PNG, False)
    assert finer_kept(align_whole(image, SIZE_PX)) is None


def test_more_is_kept_as_the_face_grows_and_without_a_jump():
    edge = [finer_kept(spanning(span_px))[LEFT_EDGE] for span_px in np.linspace(1.001, 1.6, 600)]
    assert edge[0] < 0.001
    assert edge[-1] == 1
    assert 0 <= np.diff(edge).min() <= np.diff(edge).max() < 0.005


def test_the_face_itself_keeps_nothing():
    kept = finer_kept(spanning(7.5))
    for x, y in template(SIZE_PX):
        assert kept[round(y), round(x)] == 0
    assert kept[MIDDLE] == 0
    assert kept[LEFT_EDGE] == kept[3, 32] == kept[62, 4] == 1
    assert np.abs(np.diff(kept, axis=1)).max() < 0.3


@pytest.mark.parametrize("upscale", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_beside_the_face_is_changed_only_as_coarsely_as_the_crop_is(dtype, upscale):
    image, aligned = speckled(dtype)
    level = np.iinfo(dtype).max / 255
    plain = paste(image, [], upscale=upscale, background=Background.LANCZOS).pixels.astype(float)
    result = pasted(image, aligned, as_it_was(aligned) + np.float32(10 / 255), upscale)
    change = (result - plain)[:, :, 1] / level
    shape = change.shape
    whole = placed(face_mask(SIZE_PX), aligned, shape, upscale) > 0.999
    kept = placed(finer_kept(aligned), aligned, shape, upscale)
    beside, face = whole & (kept > 0.999), whole & (kept < 0.001)
    assert beside.sum() > 2000 * upscale
    assert np.abs(change[beside] - 10).max() < 2
    assert change[face].std() > 5  # there the noise is gone


def test_faces_over_each_other_keep_it_beside_both():
    image, aligned = speckled()
    twice = [(replace(aligned, index=index), as_it_was(aligned)) for index in range(2)]
    once = pasted(image, *twice[0]).astype(int)
    both = paste(image, twice, upscale=1, background=Background.LANCZOS).pixels
    whole = placed(face_mask(SIZE_PX), aligned, once.shape[:2]) > 0.999
    assert np.abs(both.astype(int) - once)[whole].max() <= 1
