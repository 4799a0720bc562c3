import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from service.stages.warp import bounds, compose, invert, scaling, translation, warp
from tests.pictures import pixels


def turn(degrees, factor=1.0, centre=(0.0, 0.0)):
    angle = np.radians(degrees)
    linear = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([linear, np.array(centre) - linear @ centre])


def gradient(width, height, dtype=np.float32):
    """x + 3 y, which every interpolation of at least first order keeps."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return (x + 3 * y).astype(dtype)


def test_maps_compose_and_invert():
    first, second = turn(30, 1.7, (5, 9)), translation(3, -2)
    point = np.array([4.0, 7.0])
    moved = compose(second, first)
    np.testing.assert_allclose(moved[:, :2] @ point + moved[:, 2], first[:, :2] @ point + first[:, 2] + (3, -2))
    np.testing.assert_allclose(compose(invert(moved), moved), translation(0, 0), atol=1e-12)


@pytest.mark.parametrize("affine", [np.zeros((2, 3)), np.full((2, 3), np.nan), np.array([[1.0, 2, 0], [2, 4, 0]])])
def test_a_map_without_inverse(affine):
    with pytest.raises(ValueError, match="inverted"):
        invert(affine)


def test_scaling_keeps_the_borders_of_the_picture():
    assert bounds(scaling(3, 2), 10, 20) == (-0.5, -0.5, 29.5, 39.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_the_identity_changes_nothing(dtype, shape):
    source = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    result = warp(source, translation(0, 0), 50, 40)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, source, atol=1e-4)


@pytest.mark.parametrize(("x", "y"), [(3, 5), (-7, 2)])
def test_whole_pixels_move_exactly(x, y):
    source = pixels(60, 60)
    moved = warp(source, translation(x, y), 60, 60)
    np.testing.assert_array_equal(moved[10:50, 10:50], source[10 - y : 50 - y, 10 - x : 50 - x])


@pytest.mark.parametrize("side_px", [35, 44, 48, 52, 83, 101])
@pytest.mark.parametrize("degrees", [0, 9])
def test_a_part_of_the_target_is_what_the_whole_has_there(side_px, degrees):
    """So no cell of a paste shows where the next begins."""
    face = cv2.resize(data.astronaut()[:220, 130:350], (512, 512)).astype(np.float32)
    affine = compose(turn(degrees, centre=(side_px / 2, side_px / 2)), scaling(side_px / 512, side_px / 512))
    whole, half = warp(face, affine, side_px, side_px), side_px // 2
    for x, y in ((0, 0), (half, 0), (0, half), (half, half)):
        part = warp(face, compose(translation(-x, -y), affine), half, half)
        np.testing.assert_allclose(part, whole[y : y + half, x : x + half], atol=0.02)


@pytest.mark.parametrize("factor", [0.1, 0.25, 0.4, 0.5, 0.77, 1.0, 1.3, 2.0, 5.0])
def test_a_gradient_stays_in_place_at_every_scale(factor):
    source = gradient(200, 200)
    side = round(200 * factor)
    result = warp(source, scaling(side / 200, side / 200), side, side)
    x, y = np.meshgrid(*2 * [(np.arange(side) + 0.5) * 200 / side - 0.5])
    inside = slice(side // 5, -side // 5)
    error_px = (result - (x + 3 * y))[inside, inside] / (4 * max(1, 1 / factor))  # of the coarser picture
    assert np.abs(error_px).max() < 0.06
    assert abs(error_px.mean()) < 0.002


@pytest.mark.parametrize("degrees", [0, 17, 90, 133])
@pytest.mark.parametrize("factor", [0.3, 0.8, 1.6])
def test_a_gradient_turns_with_the_map(degrees, factor):
    source = gradient(160, 160)
    affine = compose(translation(-40, -40), turn(degrees, factor, (80, 80)))
    result = warp(source, affine, 80, 80)
    inverse = invert(affine)
    x, y = np.meshgrid(np.arange(80.0), np.arange(80.0))
    came_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    came_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    known = (came_x > 8) & (came_x < 151) & (came_y > 8) & (came_y < 151)
    assert known.sum() > 400
    error_px = (result - (came_x + 3 * came_y))[known] / (4 * max(1, 1 / factor))
    assert np.abs(error_px).max() < 0.06
    assert abs(error_px.mean()) < 0.002


@pytest.mark.parametrize("factor", [0.45, 0.3, 0.2, 0.11])
def test_detail_finer_than_the_target_turns_grey(factor):
    stripes = np.zeros((400, 400), np.uint8)
    stripes[:, ::2] = 255
    side = round(400 * factor)
    result = warp(stripes, scaling(factor, factor), side, side)
    assert np.abs(result[4:-4, 4:-4].astype(int) - 127).max() < 30


@pytest.mark.parametrize(
    ("side_px", "least_db", "least_kept"),
    [(440, 46, 0.88), (240, 50, 0.95), (180, 41, 0.8), (130, 45, 0.9), (90, 43, 0.88)],
)
def test_a_face_that_is_shrunk_keeps_the_detail_that_lanczos_keeps(side_px, least_db, least_kept):
    face = data.astronaut()
    aim = np.asarray(Image.fromarray(face).resize((side_px, side_px), Image.Resampling.LANCZOS), np.float32)
    found = warp(face, scaling(side_px / 512, side_px / 512), side_px, side_px).astype(np.float32)
    inside = slice(8, -8)
    error = np.square(found - aim)[inside, inside].mean()
    kept = [cv2.Laplacian(picture.mean(axis=2)[inside, inside], cv2.CV_32F).var() for picture in (found, aim)]
    assert 10 * np.log10(255**2 / error) > least_db
    assert kept[0] / kept[1] > least_kept


def cubic_of(source, affine, side_px):
    size = (side_px, side_px)
    return cv2.warpAffine(source, affine, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def lanczos_of(source, affine, side_px):
    """By six times six weights at every pixel; the affine map must not shrink."""
    x, y = np.meshgrid(*2 * [np.arange(float(side_px))])
    inverse = invert(affine)
    at = [inverse[axis, 0] * x + inverse[axis, 1] * y + inverse[axis, 2] for axis in (0, 1)]
    total, weight = 0.0, 0.0
    for row, column in np.ndindex(6, 6):
        near = [np.floor(each).astype(int) - 2 + step for each, step in zip(at, (column, row), strict=True)]
        here = np.prod([np.sinc(p - n) * np.sinc((p - n) / 3) for p, n in zip(at, near, strict=True)], axis=0)
        total += here[:, :, None] * source[near[1], near[0]]
        weight += here
    return total / weight[:, :, None]


@pytest.mark.parametrize("degrees", [2, -20])
@pytest.mark.parametrize(
    ("factor", "dtype"), [(1.6, np.uint8), (1.8, np.uint8), (2.4, np.uint8), (3.0, np.uint8), (3.0, np.float32)]
)
def test_a_turned_face_that_is_enlarged_is_nearer_to_lanczos_than_a_cubic_kernel_is(factor, dtype, degrees):
    face = data.astronaut()[:256, 100:356].astype(dtype)
    affine = compose(translation(95, 95), compose(turn(degrees, factor), translation(-120.3, -130.7)))
    aim = lanczos_of(face.astype(float), affine, 190).clip(0, 255)
    found, usual = (
        np.square(picture.astype(float).clip(0, 255) - aim).mean()
        for picture in (warp(face, affine, 190, 190), cubic_of(face, affine, 190))
    )
    assert found < 0.9 * usual


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("factor", "degrees"), [(1.2, 10), (1.6, 0), (2.4, 0), (2.0, 90)])
def test_little_or_upright_enlargements_take_a_cubic_kernel(factor, degrees, dtype):
    face = data.astronaut().astype(dtype)
    affine = compose(translation(60, 60), compose(turn(degrees, factor), translation(-256, -150)))
    found = warp(face, affine, 120, 120).astype(float)
    assert np.abs(found - cubic_of(face, affine, 120)).max() <= 1


@pytest.mark.parametrize("side_px", [1536, 1300, 1640])
def test_an_upright_face_that_is_enlarged_by_much_is_not_sharpened(side_px):
    face = data.astronaut()
    aim = np.asarray(Image.fromarray(face).resize((side_px, side_px), Image.Resampling.LANCZOS), np.float32)
    found = warp(face, scaling(side_px / 512, side_px / 512), side_px, side_px).astype(np.float32)
    kept = [cv2.Laplacian(picture.mean(axis=2)[8:-8, 8:-8], cv2.CV_32F).var() for picture in (found, aim)]
    assert 0.8 < kept[0] / kept[1] < 1.1


@pytest.mark.parametrize("degrees", [0, 17, -135])
@pytest.mark.parametrize("factor", [0.13, 0.3, 0.4, 0.57, 0.8, 0.95, 1.0, 1.7, 3.2, 7.0])
def test_waves_that_both_pictures_can_hold_keep_height_and_place(factor, degrees):
    wave_px = 5 / min(1, factor)

    def wave(x, y):
        return np.cos(2 * np.pi * x / wave_px) * np.cos(2 * np.pi * y / wave_px)

    source = wave(*np.meshgrid(np.arange(400.0), np.arange(400.0))).astype(np.float32)
    affine = compose(translation(40, 40), compose(turn(degrees, factor), translation(-199.7, -200.2)))
    result = warp(source, affine, 80, 80)
    inverse = invert(affine)
    x, y = np.meshgrid(np.arange(80.0), np.arange(80.0))
    came_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    came_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    known = np.maximum(abs(came_x - 199.5), abs(came_y - 199.5)) < 199.5 - 12 / factor
    assert known.sum() > 700
    error = (result - wave(came_x, came_y))[known]
    assert np.sqrt(np.square(error).mean()) < 0.065 / 2  # a half is the wave's own root mean square


@pytest.mark.parametrize("factor", [30.0, 1e5, 1e8])
def test_a_few_pixels_fill_a_target_however_much_they_are_enlarged(factor):
    source = gradient(40, 40)
    affine = compose(translation(32, 32), compose(scaling(factor, factor), translation(-20, -20)))
    inverse = invert(affine)
    came = inverse[0, 0] * np.arange(64.0) + inverse[0, 2]
    np.testing.assert_allclose(warp(source, affine, 64, 64), came + 3 * came[:, None], atol=0.24)


def test_a_small_picture_is_enlarged_up_to_its_mirrored_border():
    source = np.array([[10.0, 30.0], [10.0, 30.0]], np.float32)
    result = warp(source, scaling(8, 8), 32, 16)
    assert (result[:, 4:12].min(), result[:, 4:12].max()) == pytest.approx((10, 30), abs=1.5)
    np.testing.assert_allclose(result[:, 12:20], result[:, 4:12][:, ::-1], atol=0.5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 300, 3), (300, 1), (2, 2), (3, 3, 3)])
@pytest.mark.parametrize("factor", [1e-5, 0.02, 0.3, 1.0, 7.0, 900.0])
def test_a_source_of_a_pixel_s_width_is_resampled_and_never_hangs(shape, factor):
    grey = np.full(shape, 100, np.uint8)
    np.testing.assert_array_equal(warp(grey, turn(37, factor), 33, 29), np.full((29, 33, *shape[2:]), 100))


def test_beyond_the_border_is_the_mirror_image():
    source = pixels(60, 60)
    result = warp(source, translation(20, 0), 60, 60)
    np.testing.assert_array_equal(result[:, 20:], source[:, :40])
    np.testing.assert_array_equal(result[:, :20], source[:, 1:21][:, ::-1])


def test_only_the_part_that_is_needed_matters():
    source = np.full((2000, 2000), np.nan, np.float32)
    source[900:1000, 900:1000] = gradient(100, 100)
    result = warp(source, translation(-930, -930), 40, 40)
    np.testing.assert_allclose(result, gradient(100, 100)[30:70, 30:70], atol=1e-3)


@pytest.mark.parametrize("affine", [translation(500, 0), translation(0, -500), np.full((2, 3), np.inf)])
def test_a_target_outside_the_source(affine):
    with pytest.raises(ValueError, match=r"outside|inverted"):
        warp(pixels(60, 60), affine, 60, 60)


def test_a_source_that_is_read_only_and_not_contiguous():
    source = pixels(60, 60)[::-1, ::-1]
    source.setflags(write=False)
    np.testing.assert_array_equal(warp(source, translation(0, 0), 60, 60), source)
