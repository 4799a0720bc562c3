import itertools

import numpy as np
import pytest

from service.stages import pyramid
from service.stages.pyramid import Level, Tile
from tests.pictures import pixels


def level(width, height):
    return Level(np.zeros((height, width, 3), np.uint8), (1.0, 1.0))


def cover(width, height, **changed):
    given = {"max_area_px": 64_000, "overlap_px": 32, "margin_px": 16, "multiple_px": 32} | changed
    return list(pyramid.tiles(level(width, height), **given))


SIZES = [(1, 1), (64, 64), (230, 200), (1000, 40), (40, 1000), (1000, 777), (3, 2500)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_tiles_cover_everything_within_their_limits(width, height):
    seen = np.zeros((height + 32, width + 32), np.uint8)
    for tile in cover(width, height):
        assert tile.width % 32 == tile.height % 32 == 0
        assert tile.width * tile.height <= 64_000
        seen[
            max(0, tile.top + 16) : tile.top + 16 + tile.height, max(0, tile.left + 16) : tile.left + 16 + tile.width
        ] = 1
    assert seen.all()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_neighbours_overlap(width, height):
    tiles = cover(width, height)
    for side, start in (("width", "left"), ("height", "top")):
        begins = sorted({getattr(tile, start) for tile in tiles})
        size = getattr(tiles[0], side)
        assert all(after - before <= size - 31 for before, after in itertools.pairwise(begins))


def test_a_small_level_is_one_tile_with_the_picture_in_its_middle():
    (tile,) = cover(100, 60)
    assert tile == Tile(left=-30, top=-18, width=160, height=96)


def test_tiles_waste_little():
    assert sum(tile.width * tile.height for tile in cover(2300, 1700, max_area_px=640_000)) < 1.15 * 2300 * 1700


def test_levels_shrink_until_the_shorter_side_fits():
    levels = pyramid.build(pixels(1200, 900), 0.5, step=4, coarsest_px=100)
    assert [it.picture.shape for it in levels] == [(450, 600, 3), (112, 150, 3), (28, 38, 3)]
    assert levels[0].scale == (0.5, 0.5)
    assert levels[2].scale == (38 / 1200, 28 / 900)


def test_levels_enlarge_and_keep_at_least_a_pixel():
    assert pyramid.build(pixels(64, 64), 4.0, step=4, coarsest_px=256)[0].picture.shape == (256, 256, 3)
    assert pyramid.build(pixels(4000, 2), 0.1, step=4, coarsest_px=256)[0].picture.shape == (1, 400, 3)


def test_a_level_at_full_size_is_the_photo_itself():
    photo = pixels(64, 48)
    assert pyramid.build(photo, 1.0, step=4, coarsest_px=256)[0].picture is photo


def test_shrinking_averages():
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 32, 3))
    (small,) = pyramid.build(stripes, 0.5, step=4, coarsest_px=64)
    assert np.unique(small.picture).tolist() == [128]


@pytest.mark.parametrize(
    ("tile", "inside"),
    [
        (Tile(10, 5, 20, 30), (slice(0, 30), slice(0, 20))),
        (Tile(-10, -5, 40, 30), (slice(5, 30), slice(10, 40))),
        (Tile(100, 80, 40, 30), (slice(0, 20), slice(0, 20))),
        (Tile(-10, -10, 140, 120), (slice(10, 110), slice(10, 130))),
    ],
)
def test_a_tile_shows_the_photo_and_grey_around_it(tile, inside):
    photo = pixels(120, 100)
    view = pyramid.cut(photo, tile)
    rows, columns = (slice(max(0, at), min(at + size, end)) for at, size, end in spans(tile))
    np.testing.assert_array_equal(view[inside], photo[rows, columns])
    around = np.ones(view.shape[:2], bool)
    around[inside] = False
    assert (view[around] == 127).all()


def spans(tile):
    return (tile.top, tile.height, 100), (tile.left, tile.width, 120)


@pytest.mark.parametrize("tile", [Tile(500, 0, 32, 32), Tile(-90, -90, 32, 32), Tile(0, 300, 32, 32)])
def test_a_tile_outside_the_photo_is_grey(tile):
    assert (pyramid.cut(pixels(120, 100), tile) == 127).all()


def test_zooming_brings_a_tile_of_any_size_to_one_size():
    photo = pixels(120, 100)
    assert pyramid.zoomed(photo, Tile(10, 10, 77, 77), 64).shape == (64, 64, 3)
    assert pyramid.zoomed(photo, Tile(10, 10, 7, 7), 64).shape == (64, 64, 3)
    np.testing.assert_array_equal(pyramid.zoomed(photo, Tile(10, 10, 64, 64), 64), photo[10:74, 10:74])
