"""Paste: what changes, what does not, and that it lands where it was cut."""

import dataclasses
import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service.core.types import AlignedFace, Background, DecodedImage, Face, OutputFormat
from service.stages.align import align, align_whole, template
from service.stages.paste import face_mask, paste
from service.stages.tone import in_photo
from service.stages.warp import compose, invert, scaling
from tests.fakes import face_at
from tests.pictures import pixels

SIZE_PX = 64
LARGE = pixels(320, 240)
SPECKLED = np.asarray(  # of ten pixels: slopes so steep that a shift stands out of the rounding to 8 bits
    Image.fromarray(np.random.default_rng(1).integers(30, 226, (24, 32, 3), dtype=np.uint8)).resize((320, 240), 3)
)


def photo(picture=LARGE, **changes):
    values = picture.copy()
    values.setflags(write=False)
    return dataclasses.replace(DecodedImage(values, None, None, None, OutputFormat.PNG, False), **changes)


def turned_face(degrees, face_px, x, y):
    """A face about (x, y) whose crop spans `face_px` pixels of the photo."""
    angle, factor = np.radians(degrees), face_px / SIZE_PX
    turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = (template(SIZE_PX) - (SIZE_PX - 1) / 2) @ turn.T + (x, y)
    return Face((x - 1, y - 1, x + 1, y + 1), landmarks.astype(np.float32), 0.9)


def cut(image, *faces):
    return [align(image, face, index, SIZE_PX) for index, face in enumerate(faces)]


def as_floats(crop):
    return crop.astype(np.float32) / 255


def put(image, aligned, change=lambda crop: crop, upscale=1.0, background=Background.LANCZOS):
    pairs = [(each, change(in_photo(as_floats(each.crop), each))) for each in aligned]
    return paste(image, pairs, upscale=upscale, background=background)


def mask_radius(shape, affine):
    """Of every pixel, its place in the crop: 1 on the inscribed superellipse of the crop's border."""
    x, y = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    at = np.stack([x, y], axis=-1) @ affine[:, :2].T + affine[:, 2]
    return (np.abs((at + 0.5) / SIZE_PX * 2 - 1) ** 4).sum(axis=-1) ** 0.25


def shift_px(moved, reference, where):
    """How far `moved` lies from `reference`, (x, y) by least squares on the gradients."""
    moved, reference = (np.asarray(each, float)[:, :, :3].mean(axis=2) for each in (moved, reference))
    down, right = np.gradient(reference)
    slopes = np.column_stack([right[where], down[where]])
    return -np.linalg.lstsq(slopes, (moved - reference)[where], rcond=None)[0]


def test_without_faces_the_photo_is_the_result():
    result = put(photo(), [])
    np.testing.assert_array_equal(result.pixels, LARGE)
    assert not result.pixels.flags.writeable


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("degrees", [0, 30])
def test_outside_the_mask_every_bit_is_kept(dtype, degrees):
    noise = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (240, 320, 3), dtype=dtype, endpoint=True)
    image = photo(noise)
    (aligned,) = cut(image, turned_face(degrees, 120, 150, 110))
    result = put(image, [aligned], lambda crop: 1 - crop)
    changed = (result.pixels != noise).any(axis=2)
    radius = mask_radius(changed.shape, aligned.affine)
    assert result.pixels.dtype == dtype
    assert not changed[radius > 1].any()
    assert changed[radius < 0.6].mean() > 0.98


@pytest.mark.parametrize("degrees", [0, 20, -135])
@pytest.mark.parametrize("face_px", [30, 64, 100, 200])
def test_what_was_cut_goes_back_to_its_place(degrees, face_px):
    image = photo(SPECKLED)
    (aligned,) = cut(image, turned_face(degrees, face_px, 151.3, 118.7))
    result = put(image, [aligned])
    within = mask_radius((240, 320), aligned.affine) < 0.68
    assert np.abs(shift_px(result.pixels, SPECKLED, within)).max() < 0.02 * max(1, face_px / SIZE_PX)
    assert np.abs(result.pixels.astype(int) - SPECKLED).mean() < 0.5


@pytest.mark.parametrize("upscale", [1.0, 1.37, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("background", list(Background))
def test_geometry_at_every_size(upscale, background):
    image = photo(SPECKLED)
    (aligned,) = cut(image, turned_face(10, 64, 150, 110))
    result = put(image, [aligned], upscale=upscale, background=background)
    plain = put(image, [], upscale=upscale, background=background)
    assert result.pixels.shape == (round(240 * upscale), round(320 * upscale), 3)
    enlarge = scaling(result.pixels.shape[1] / 320, result.pixels.shape[0] / 240)
    radius = mask_radius(result.pixels.shape, compose(aligned.affine, invert(enlarge)))
    assert np.abs(shift_px(result.pixels, plain.pixels, radius < 0.68)).max() < 0.05 * upscale
    np.testing.assert_array_equal(result.pixels[radius > 1], plain.pixels[radius > 1])


def test_the_enlarged_photo_stays_in_place():
    x = np.tile(np.arange(60, dtype=np.uint8) * 4, (60, 1))
    image = photo(np.repeat(x[:, :, None], 3, axis=2))
    for background in Background:
        result = put(image, [], upscale=3.0, background=background).pixels[:, :, 0]
        expected = ((np.arange(180) + 0.5) / 3 - 0.5) * 4
        assert np.abs(result[90, 12:-12] - expected[12:-12]).max() <= 1


@pytest.mark.parametrize("face_px", [64, 128, 200])
def test_no_seam(face_px):
    """A restored face of another brightness fades in over the mask's rim: no step, and no ring."""
    image = photo(np.full((240, 320, 3), 100, np.uint8))
    (aligned,) = cut(image, turned_face(25, face_px, 160, 120))
    change = put(image, [aligned], lambda crop: crop + np.float32(60 / 255)).pixels[:, :, 0].astype(int) - 100
    assert change.max() in (60, 61)
    assert change.min() == 0
    steepest = 1.875 * 60 / (0.14 * face_px)  # of the quintic fade over its width
    steps = [np.abs(np.diff(change, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) <= 1.3 * steepest + 1


def test_the_mask_is_whole_over_the_face_and_nothing_at_the_border():
    mask = face_mask(SIZE_PX)
    assert mask[8:56, 32].min() > 0.9
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert border.max() == 0
    for x, y in template(SIZE_PX):
        assert mask[round(y), round(x)] == 1
    with pytest.raises(ValueError, match="read-only"):
        mask[0, 0] = 1


def test_overlapping_faces_do_not_depend_on_their_order():
    image = photo()
    faces = cut(image, turned_face(0, 100, 130, 110), turned_face(15, 90, 180, 120), turned_face(-9, 80, 150, 160))
    values = [0.2, 0.5, 0.9]
    pairs = [(each, np.full_like(as_floats(each.crop), value)) for each, value in zip(faces, values, strict=True)]
    results = []
    for order in itertools.permutations(pairs):
        results.append(paste(image, order, upscale=1, background=Background.NONE).pixels)
        renumbered = [(dataclasses.replace(each, index=index), crop) for index, (each, crop) in enumerate(order)]
        again = paste(image, renumbered, upscale=1, background=Background.NONE).pixels
        assert np.abs(again.astype(int) - results[0]).max() <= 1
    assert all(np.array_equal(result, results[0]) for result in results)
    first, second, third = (mask_radius((240, 320), each.affine) for each in faces)
    shared = (first < 0.65) & (second < 0.65) & (third > 1)
    assert shared.sum() > 50
    np.testing.assert_allclose(results[0][shared], 255 * 0.35, atol=2)  # with a little of the photo's finest detail


def test_faces_side_by_side_equal_each_face_alone():
    image = photo()
    faces = cut(image, turned_face(0, 60, 60, 60), turned_face(0, 60, 250, 170))
    together = put(image, faces, lambda crop: 1 - crop).pixels
    alone = [put(image, [each], lambda crop: 1 - crop).pixels for each in faces]
    np.testing.assert_array_equal(together, np.where(alone[0] != LARGE, alone[0], alone[1]))


@pytest.mark.parametrize(("x", "y"), [(0, 0), (319, 120), (160, 239), (-20, 100)])
def test_a_face_cut_by_the_border(x, y):
    image = photo()
    (aligned,) = cut(image, turned_face(10, 100, x, y))
    same = put(image, [aligned]).pixels
    assert np.abs(same.astype(int) - LARGE).max() <= 4
    changed = (put(image, [aligned], lambda crop: 1 - crop).pixels != LARGE).any(axis=2)
    radius = mask_radius((240, 320), aligned.affine)
    assert changed[radius < 0.6].mean() > 0.9
    assert not changed[radius > 1].any()


def test_alpha_is_kept_and_enlarged():
    alpha = np.tile(np.linspace(0, 255, 320).astype(np.uint8), (240, 1))
    alpha.setflags(write=False)
    image = photo(alpha=alpha)
    faces = cut(image, face_at(100, 60, 100))
    assert put(image, faces, lambda crop: 1 - crop).alpha is alpha
    twice = put(image, faces, upscale=2.0).alpha
    assert twice.shape == (480, 640)
    assert np.abs(twice[::2, ::2].astype(int) - alpha).max() <= 2


@pytest.mark.parametrize("upscale", [1.0, 2.0])
def test_what_is_transparent_keeps_its_colour(upscale):
    alpha = np.where(np.arange(320) < 150, 255, 0).astype(np.uint8) * np.ones((240, 1), np.uint8)
    image = photo(alpha=alpha)
    faces = cut(image, face_at(100, 60, 100))
    plain, result = put(image, [], upscale=upscale), put(image, faces, lambda crop: 1 - crop, upscale=upscale)
    np.testing.assert_array_equal(result.pixels[result.alpha == 0], plain.pixels[result.alpha == 0])
    changed = (result.pixels != plain.pixels).any(axis=2)
    middle = (slice(int(80 * upscale), int(140 * upscale)), slice(int(110 * upscale), int(148 * upscale)))
    assert changed[middle].mean() > 0.95


def test_sixteen_bits_keep_their_depth_in_the_face():
    image = photo(LARGE.astype(np.uint16) * 257)
    faces = cut(image, turned_face(0, 128, 150, 110))
    result = put(image, faces).pixels
    assert np.abs(result.astype(int) - image.pixels).max() <= 4 * 257
    ramp = np.repeat(np.linspace(0.3, 0.31, SIZE_PX, dtype=np.float32)[None, :, None], SIZE_PX, axis=0)
    fine = put(image, faces, lambda crop: np.repeat(ramp, 3, axis=2)).pixels[100:120, 130:170, 0]
    assert len(np.unique(fine)) > 30


def test_a_photo_that_was_the_crop_is_replaced_as_a_whole():
    square = pixels(100, 100)
    image = photo(square)
    aligned = align_whole(image, SIZE_PX)
    for upscale in (1.0, 2.0):
        white = put(image, [aligned], lambda crop: np.ones_like(crop), upscale=upscale).pixels
        assert (white == 255).all()
        assert white.shape == (100 * upscale, 100 * upscale, 3)
    assert np.abs(put(image, [aligned]).pixels.astype(int) - square).max() <= 6


def test_values_beyond_the_range_are_clipped():
    image = photo()
    result = put(image, cut(image, face_at(100, 60, 100)), lambda crop: crop * 5 - 2).pixels
    assert result.min() == 0
    assert result.max() == 255


@pytest.mark.parametrize("upscale", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_edges_as_hard_as_can_be_do_not_wrap_around(dtype, upscale):
    """Resampling overshoots beside them."""
    most = np.iinfo(dtype).max
    image = photo(LARGE.astype(dtype) * (most // 255))
    (aligned,) = cut(image, turned_face(7, 150, 160, 120))
    hard = np.zeros((SIZE_PX, SIZE_PX, 3), np.float32)
    hard[:, SIZE_PX // 2 :] = 1
    result = put(image, [aligned], lambda _crop: hard, upscale=upscale).pixels[..., 0]
    scale = scaling(1 / upscale, 1 / upscale)
    scale[:, 2] += (1 / upscale - 1) / 2
    affine = compose(aligned.affine, scale)
    x, y = np.meshgrid(np.arange(result.shape[1]), np.arange(result.shape[0]))
    across = affine[0, 0] * x + affine[0, 1] * y + affine[0, 2] - (SIZE_PX / 2 - 0.5)
    inside = mask_radius(result.shape, affine) < 0.6
    assert result[inside & (across > 1.5)].min() >= 0.8 * most
    assert result[inside & (across < -1.5)].max() <= 0.2 * most


def test_profile_exif_and_format_are_the_photos():
    image = photo(icc_profile=b"profile", exif=b"exif", source_format=OutputFormat.WEBP)
    result = put(image, cut(image, face_at(100, 60, 100)))
    assert (result.icc_profile, result.exif, result.source_format) == (b"profile", b"exif", OutputFormat.WEBP)


def test_nothing_given_is_written_to():
    image = photo(alpha=np.full((240, 320), 9, np.uint8))
    image.alpha.setflags(write=False)
    (aligned,) = cut(image, face_at(100, 60, 100))
    restored = as_floats(aligned.crop)
    restored.setflags(write=False)
    before = aligned.affine.copy()
    for upscale in (1, 2):
        paste(image, [(aligned, restored)], upscale=upscale, background=Background.LANCZOS)
    np.testing.assert_array_equal(image.pixels, LARGE)
    np.testing.assert_array_equal(aligned.affine, before)


@pytest.mark.parametrize("immutable", [False, True])
def test_a_photo_that_is_given_up_becomes_the_result(immutable):
    picture = LARGE.copy()
    if immutable:
        picture = np.frombuffer(picture.tobytes(), np.uint8).reshape(picture.shape)
    image = replace(photo(), pixels=picture)
    picture.setflags(write=False)
    (aligned,) = cut(image, face_at(100, 60, 100))
    pairs = [(aligned, 1 - as_floats(aligned.crop))]
    kept = paste(photo(), pairs, upscale=1, background=Background.LANCZOS)
    result = paste(image, pairs, upscale=1, background=Background.LANCZOS, consume=True)
    np.testing.assert_array_equal(result.pixels, kept.pixels)
    assert not result.pixels.flags.writeable
    assert np.shares_memory(result.pixels, picture) is not immutable
    enlarged = paste(photo(picture.copy()), pairs, upscale=2, background=Background.LANCZOS, consume=True)
    assert enlarged.pixels.shape == (480, 640, 3)


@pytest.mark.parametrize("faces", [1, 12])
def test_memory_beyond_the_result_does_not_grow_with_photo_or_faces(faces):
    image = photo(np.full((3000, 4000, 3), 90, np.uint8))
    aligned = cut(image, *(turned_face(5, 300, 250 + 300 * index, 900) for index in range(faces)))
    pairs = [(each, as_floats(each.crop)) for each in aligned]
    tracemalloc.start()
    result = paste(image, pairs, upscale=1, background=Background.LANCZOS)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes - result.pixels.nbytes < 30_000_000


def test_a_restored_crop_of_another_size():
    image = photo()
    faces = cut(image, face_at(100, 60, 100))
    with pytest.raises(ValueError, match="restored crop"):
        put(image, faces, lambda crop: crop[1:])


def test_a_crop_that_reaches_no_pixel_changes_nothing():
    image = photo()
    far = AlignedFace(0, face_at(0, 0, 9), pixels(SIZE_PX, SIZE_PX), np.array([[1.0, 0, -5000], [0, 1.0, -5000]]))
    np.testing.assert_array_equal(put(image, [far]).pixels, LARGE)
