import numpy as np
import pytest

from export.cpu_bench import (
    EAGER,
    SERVED,
    Restoration,
    Row,
    in_turn,
    matrix_products,
    network_table,
    processor,
    psnr_db,
    restoration_table,
)
from export.node_profile import of_events, profile, profile_table
from tests.small_graphs import SIDE, residual

ROW = Row("velocity", 4, gflop=20.0, peak=[90.0, 100.0, 30.0], ms={EAGER: [700, 500, 9000], SERVED: [250, 250, 251]})


def test_rates_are_those_of_the_best_calls_so_that_slow_rounds_do_not_count():
    assert ROW.gflops(EAGER) == pytest.approx(40)
    assert ROW.share(SERVED) == pytest.approx(0.8)


def test_every_row_has_a_cell_for_each_runtime_under_the_header():
    header, rule, line = network_table([ROW])
    assert line == "| velocity | 4 | 20.0 | 100 | 500.0 ms, 40, 40% | 250.0 ms, 80, 80% |"
    assert header.count("|") == rule.count("|") == line.count("|")


def test_faces_are_compared_with_pytorch():
    found = Restoration(4, 5, ms={EAGER: [900, 800, 9000], SERVED: [400, 500, 900]}, psnr_db={SERVED: 120.0})
    assert found.speedup(SERVED) == pytest.approx(2.0)
    assert list(restoration_table(found))[-1] == "| onnxruntime | 400 (500) | 2.00 | 120.0 |"


def test_calls_take_turns_and_there_are_three_rounds_at_least():
    order = []
    ms, peak = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, {}, seconds=0, pause_s=0)
    assert order == ["a", "a", "b", "b"] * 3
    assert [len(values) for values in ms.values()] == [3, 3]
    assert peak == []


def test_each_round_measures_the_product_too():
    order = []
    _, peak = in_turn(
        {"call": lambda: order.append("call")}, {"product": lambda: order.append("product")}, seconds=0, pause_s=0
    )
    assert order == ["product", "product", "call", "call"] * 3
    assert len(peak) == 3


def test_both_products_are_the_same_one():
    products = matrix_products(1)
    np.testing.assert_allclose(products[EAGER]().numpy(), products[SERVED]()[0], rtol=1e-4)


def test_psnr_of_pictures():
    picture = np.full((2, 2), 0.5, np.float32)
    assert psnr_db(picture + 0.1, picture) == pytest.approx(20, abs=1e-3)
    assert psnr_db(picture, picture) == 200


def test_the_processor_has_a_name():
    assert processor()


def event(name, operator, microseconds, shapes, category="Node"):
    sides = [[{"float": shape} for shape in side] for side in shapes]
    facts = {"op_name": operator, "input_type_shape": sides[0], "output_type_shape": sides[1]}
    return {"cat": category, "name": name, "dur": microseconds, "args": facts}


def test_operators_count_with_their_least_time_grouped_by_kind_and_by_shapes():
    square = ([[2, 3], [3, 2]], [[2, 2]])
    found = of_events(
        [
            event("a_kernel_time", "MatMul", 900, square),
            event("a_kernel_time", "MatMul", 300, square),
            event("b_kernel_time", "MatMul", 200, square),
            event("c_kernel_time", "Add", 100, ([[2], []], [[2]])),
            event("c_fence_before", "Add", 5000, ([[2], []], [[2]])),
            event("run", "", 5000, ([], []), "Session"),
        ]
    )
    assert [(group.name, group.count, pytest.approx(group.ms)) for group in found.kinds] == [
        ("MatMul", 2, 0.5),
        ("Add", 1, 0.1),
    ]
    assert [group.name for group in found.shapes] == ["MatMul 2x3, 3x2 -> 2x2", "Add 2, () -> 2"]
    assert found.ms == pytest.approx(0.6)


def test_a_network_s_profile_is_a_table_of_its_operators():
    found = profile(residual(), {"x": np.ones((2, SIDE), np.float32)}, 1)
    lines = list(profile_table("small", found, most=3))
    assert "MatMul" in {group.name for group in found.kinds}
    assert len(lines) == 2 * (2 + 3 + 1)
    assert lines[0].startswith("| small, ")
