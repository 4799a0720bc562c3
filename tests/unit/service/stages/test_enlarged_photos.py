"""Enlarge: what is hidden lends no colour to what is seen. Geometry is tested where photos are pasted."""

import tracemalloc

import cv2
import numpy as np
import pytest

from service.core.types import Background
from service.stages.enlarge import enlarged

SPECKLED = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
OPAQUE = np.full((240, 320), 255, np.uint8)
LANCZOS = Background.LANCZOS
DISC = np.hypot(*np.mgrid[-120:120, -160:160]) < 90


@pytest.mark.parametrize("background", list(Background))
@pytest.mark.parametrize("upscale", [1.37, 2.0, 4.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_cut_out_gets_no_line_around_it(dtype, upscale, background):
    top_level = np.iinfo(dtype).max
    colour = (np.array([0.8, 0.5, 0.2]) * top_level).astype(dtype)
    picture, alpha = np.where(DISC[:, :, None], colour, 0).astype(dtype), DISC.astype(dtype) * top_level
    pixels, opacity = enlarged(picture, alpha, upscale, background)
    assert pixels.dtype == opacity.dtype == dtype
    assert np.abs(pixels[opacity > top_level // 200].astype(int) - colour).max() <= top_level // 4000 + 1
    assert not opacity.flags.writeable


@pytest.mark.parametrize("background", list(Background))
@pytest.mark.parametrize("upscale", [1.37, 2.0, 4.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_outline_has_no_rings(dtype, upscale, background):
    """More than two pixels of the photo away from it all is opaque or transparent, as it was."""
    top_level = np.iinfo(dtype).max
    alpha = DISC.astype(dtype) * top_level
    picture = np.repeat(alpha[:, :, None], 3, axis=2)
    _, opacity = enlarged(picture, alpha, upscale, background)
    height, width = opacity.shape
    y, x = ((np.arange(size) + 0.5) / upscale - 0.5 for size in (height, width))
    distance = np.hypot(y[:, None] - 120, x - 160) - 90
    assert (opacity[distance < -2.5] == top_level).all()
    assert (opacity[distance > 2.5] == 0).all()
    edge = opacity[height // 2].astype(int)
    assert 0 < np.count_nonzero((edge > 0) & (edge < top_level)) <= 4 * upscale  # and is smooth, and no wider


@pytest.mark.parametrize("background", list(Background))
@pytest.mark.parametrize("upscale", [1.37, 3.0])
def test_opaque_alpha_changes_nothing(upscale, background):
    plain, none = enlarged(SPECKLED, None, upscale, background)
    assert none is None
    pixels, opacity = enlarged(SPECKLED, OPAQUE, upscale, background)
    np.testing.assert_array_equal(pixels, plain)
    assert opacity.min() == 255


@pytest.mark.parametrize("upscale", [1.37, 3.0])
def test_a_hole_changes_its_rim_alone(upscale):
    alpha = OPAQUE.copy()
    alpha[100:140, 200:240] = 0
    changed = (enlarged(SPECKLED, alpha, upscale, LANCZOS)[0] != enlarged(SPECKLED, None, upscale, LANCZOS)[0]).any(2)
    places = np.argwhere(changed) / upscale
    assert places.min(axis=0) == pytest.approx([100, 200], abs=6)
    assert places.max(axis=0) == pytest.approx([140, 240], abs=6)
    middle = slice(round(108 * upscale), round(132 * upscale)), slice(round(208 * upscale), round(232 * upscale))
    assert not changed[middle].any()  # hidden colours stay


@pytest.mark.parametrize(
    ("background", "method"), list(zip(Background, (cv2.INTER_LINEAR, cv2.INTER_LANCZOS4), strict=True))
)
def test_half_transparent_colours_are_mixed_by_their_alpha(background, method):
    alpha = np.random.default_rng(2).integers(120, 200, (240, 320), dtype=np.uint8)
    pixels, _ = enlarged(SPECKLED, alpha, 1.37, background)
    weighed = np.dstack([np.float32(SPECKLED) * alpha[:, :, None], np.float32(alpha)])
    whole = cv2.resize(weighed, pixels.shape[1::-1], interpolation=method)
    assert np.abs(np.clip(whole[:, :, :3] / whole[:, :, 3:], 0, 255) - pixels).max() < 0.51


@pytest.mark.parametrize(("height", "width"), [(2000, 2000), (60_000, 64), (64, 60_000)])
def test_memory_beyond_the_result_does_not_grow_with_it(height, width):
    alpha = np.zeros((height, width), np.uint8)
    alpha[:, 32:] = 255
    picture = np.full((height, width, 3), 90, np.uint8)
    tracemalloc.start()
    pixels, opacity = enlarged(picture, alpha, 2.0, LANCZOS)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes - pixels.nbytes - opacity.nbytes < 50_000_000
