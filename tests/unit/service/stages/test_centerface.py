import numpy as np
import pytest

from service.stages import centerface
from service.stages.centerface import Candidates


def maps_with(*faces, high=16, wide=24):
    """Maps of one picture; a face is its cell's row and column, score, and height and width in pixels."""
    heat = np.zeros((1, 1, high, wide), np.float32)
    scale = np.zeros((1, 2, high, wide), np.float32)
    landmarks = np.zeros((1, 10, high, wide), np.float32)
    for row, column, score, height_px, width_px in faces:
        heat[0, 0, row, column] = score
        scale[0, :, row, column] = np.log(height_px / 4), np.log(width_px / 4)
        landmarks[0, :, row, column] = [0.4, 0.3, 0.4, 0.7, 0.6, 0.5, 0.8, 0.35, 0.8, 0.65]  # y, x of each
    return {"heatmap": heat, "scale": scale, "offset": np.zeros_like(scale), "landmarks": landmarks}


def candidates(*rows):
    """Candidates from (left, top, right, bottom, score)."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Candidates(table[:, :4], np.zeros((len(table), 5, 2), np.float32), table[:, 4])


def read(maps, least_score=0.5, limit=100):
    return centerface.read_maps(maps, 0, least_score=least_score, limit=limit)


def test_a_peak_becomes_a_box_with_landmarks():
    found = read(maps_with((5, 10, 0.9, 40, 20)))
    np.testing.assert_allclose(found.boxes, [[32, 2, 52, 42]], atol=1e-4)
    np.testing.assert_allclose(found.landmarks[0], [[38, 18], [46, 18], [42, 26], [39, 34], [45, 34]], atol=1e-4)
    assert found.scores.tolist() == [np.float32(0.9)]


def test_the_offset_is_y_then_x():
    maps = maps_with((5, 10, 0.9, 40, 20))
    maps["offset"][0, :, 5, 10] = 0.25, -0.5
    np.testing.assert_allclose(read(maps).boxes, [[30, 3, 50, 43]], atol=1e-4)


def test_only_peaks_count_and_the_best_come_first():
    maps = maps_with((2, 2, 0.6, 8, 8), (2, 3, 0.7, 8, 8), (10, 20, 0.8, 8, 8), (13, 5, 0.4, 8, 8))
    assert read(maps).scores.tolist() == pytest.approx([0.8, 0.7])
    assert read(maps, least_score=0.3).scores.tolist() == pytest.approx([0.8, 0.7, 0.4])
    assert read(maps, limit=1).scores.tolist() == pytest.approx([0.8])


def test_a_peak_at_the_corner_counts():
    assert len(read(maps_with((0, 0, 0.9, 8, 8), (15, 23, 0.9, 8, 8)))) == 2


def test_nothing_to_find():
    found = read(maps_with())
    assert (found.boxes.shape, found.landmarks.shape, found.scores.shape) == ((0, 4), (0, 5, 2), (0,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_heat_that_is_no_number_is_no_endless_crowd(value):
    maps = maps_with()
    maps["heatmap"][:] = value
    assert len(read(maps, limit=7)) <= 7


def test_an_absurd_scale_stays_finite():
    maps = maps_with((5, 10, 0.9, 40, 20))
    maps["scale"][:] = 1e9
    assert np.isfinite(read(maps).boxes).all()


def test_pictures_become_planes():
    pictures = [np.arange(24, dtype=np.uint8).reshape(2, 4, 3), np.zeros((2, 4, 3), np.uint8)]
    tensor = centerface.to_tensor(pictures)
    assert (tensor.shape, tensor.dtype) == ((2, 3, 2, 4), np.float32)
    assert tensor[0, 1, 1, 2] == pictures[0][1, 2, 1]
    assert tensor.flags.c_contiguous


def test_a_map_moves_boxes_and_landmarks_alike():
    found = read(maps_with((5, 10, 0.9, 40, 20))).mapped(np.array([[2.0, 0, 100], [0, 3, 1000]]))
    np.testing.assert_allclose(found.boxes, [[164, 1006, 204, 1126]], atol=1e-3)
    np.testing.assert_allclose(found.landmarks[0, 2], [184, 1078], atol=1e-3)


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        pytest.param([(0, 0, 10, 10, 0.6), (1, 0, 11, 10, 0.9)], [0.9], id="the same face twice"),
        pytest.param([(0, 0, 10, 10, 0.6), (8, 0, 18, 10, 0.9)], [0.9, 0.6], id="neighbours"),
        pytest.param([(0, 0, 100, 100, 0.8), (20, 30, 35, 45, 0.7)], [0.8], id="a ghost in an eye"),
        pytest.param([(0, 0, 100, 100, 0.7), (20, 30, 35, 45, 0.8)], [0.8], id="a ghost around a face"),
        pytest.param([(0, 0, 100, 100, 0.8), (90, 90, 110, 110, 0.7)], [0.8, 0.7], id="behind a shoulder"),
        pytest.param([(0, 0, 10, 10, 0.7), (6, 0, 16, 10, 0.8), (12, 0, 22, 10, 0.6)], [0.8, 0.7, 0.6], id="a row"),
        pytest.param([(5, 5, 5, 5, 0.9), (5, 5, 5, 5, 0.8)], [0.9, 0.8], id="boxes without area"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_suppression(rows, kept):
    left = centerface.suppress(candidates(*rows), max_overlap=0.4, max_inside=0.7)
    assert left.scores.tolist() == pytest.approx(kept)


def test_what_lies_inside_may_stay():
    nested = candidates((0, 0, 100, 100, 0.8), (20, 30, 35, 45, 0.7))
    assert len(centerface.suppress(nested, max_overlap=0.4)) == 2


def test_suppression_stops_at_the_limit():
    row = candidates(*((20 * n, 0, 20 * n + 10, 10, 0.5 + n / 100) for n in range(30)))
    assert centerface.suppress(row, max_overlap=0.4, limit=3).scores.tolist() == pytest.approx([0.79, 0.78, 0.77])


def test_of_equal_scores_the_earlier_one_wins():
    twins = candidates((0, 0, 10, 10, 0.5), (0, 0, 10, 11, 0.5))
    assert centerface.suppress(twins, max_overlap=0.4).boxes[:, 3].tolist() == [10]


def test_overlap_is_intersection_over_union():
    boxes = np.array([(0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30), (3, 3, 3, 3)], np.float32)
    np.testing.assert_allclose(centerface.overlaps(boxes[0], boxes), [1, 1 / 3, 0, 0], atol=1e-6)
