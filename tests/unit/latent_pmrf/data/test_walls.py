import colorsys
import dataclasses

import numpy as np
import pytest

from latent_pmrf.data.datasets import Augmentation, augment
from latent_pmrf.data.walls import Wall, draw_wall

SIDE_PX = 128
PAINT = Wall(colour=(250.0, 10.0, 200.0), texture=0.0, size=1.0, softness=0.1)
STILL = Augmentation(flip=False, rotate_deg=0.0, scale=0.0, shift=0.0)


def photograph(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


def test_paint_is_all_that_is_seen_around_a_face_and_the_face_is_as_it_was():
    clean = photograph()
    before = clean.copy()
    painted = PAINT.behind(clean)
    assert (painted.dtype, painted.shape) == (clean.dtype, clean.shape)
    middle = slice(SIDE_PX // 3, 2 * SIDE_PX // 3)
    np.testing.assert_array_equal(painted[middle, middle], clean[middle, middle])
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert tuple(painted[corner]) == PAINT.colour
    np.testing.assert_array_equal(clean, before)


def test_coloured_light_leaves_the_wall_its_brightness():
    grey = np.full((SIDE_PX, SIDE_PX, 3), 51, np.uint8)  # a fifth of white
    lit = dataclasses.replace(PAINT, texture=1.0).behind(grey)
    assert tuple(lit[0, 0]) == (50, 2, 40)
    half = dataclasses.replace(PAINT, texture=0.5).behind(grey)
    assert tuple(half[0, 0]) == (150, 6, 120)


def test_a_larger_head_covers_more_of_it_and_a_softer_edge_is_wider():
    black = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)

    def shown(wall):
        red = wall.behind(black)[..., 0]
        return (red > 0).sum(), ((red > 0) & (red < 250)).sum()

    (usual, edge), (less, _) = shown(PAINT), shown(dataclasses.replace(PAINT, size=1.3))
    assert less < 0.9 * usual
    assert shown(dataclasses.replace(PAINT, softness=0.3))[1] > 2 * edge


def test_walls_are_saturated_and_of_every_hue():
    rng = np.random.default_rng(0)
    hsv = [colorsys.rgb_to_hsv(*(value / 255 for value in draw_wall(rng).colour)) for _ in range(200)]
    assert min(saturation for _, saturation, _ in hsv) >= 0.499
    assert set(np.histogram([hue for hue, _, _ in hsv], bins=6, range=(0, 1))[0] > 10) == {True}
    assert draw_wall(np.random.default_rng(3)) == draw_wall(np.random.default_rng(3))


def test_as_many_photographs_as_asked_for_have_one_and_the_others_are_as_before():
    walls = dataclasses.replace(STILL, wall_probability=0.25)
    changed = sum(
        not np.array_equal(augment(photograph(), walls, np.random.default_rng(seed)), photograph())
        for seed in range(200)
    )
    assert 30 < changed < 70
    np.testing.assert_array_equal(augment(photograph(), STILL, np.random.default_rng(0)), photograph())


def test_a_chance_above_one_is_refused():
    with pytest.raises(ValueError, match=r"wall_probability must be from 0 to 1, not 1\.5"):
        Augmentation(wall_probability=1.5)
