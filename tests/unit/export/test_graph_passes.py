import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.passes import fold_constants, store_compactly
from latent_pmrf.evaluation.bundle import onnxruntime_session


def model_of(nodes, constants):
    shape = [1, 300]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


def stored(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


EXACT_HALVES = np.linspace(-2, 2, 300).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.where(np.arange(300) % 3, 0, -60), "int8"),
        (np.where(np.arange(300) % 3, 0, -1e4), "int8"),
        (EXACT_HALVES, "float16"),
        (np.full(300, 128), "float16"),
        (np.linspace(-1, 1, 300), "float32"),
        (np.full(300, 1e5), "float32"),
        (EXACT_HALVES[:255], "float32"),
    ],
)
def test_constants_take_the_smallest_type_that_is_exact(values, dtype):
    values = np.asarray(values, np.float32)
    padded = np.resize(values, (1, values.size))
    model = model_of([helper.make_node("Add", ["x", "c"], ["y"])], {"c": padded})
    store_compactly(model)
    assert [value.dtype for value in stored(model).values()] == [dtype]
    if values.size == 300:
        onnx.checker.check_model(model)
        result = onnxruntime_session(model.SerializeToString()).run(None, {"x": np.zeros((1, 300), np.float32)})[0]
        np.testing.assert_array_equal(result, padded)


@pytest.mark.parametrize(("first", "dtype"), [(0, "int16"), (40_000, "int64")])
def test_long_lists_of_indices_become_short_numbers_where_they_fit(first, dtype):
    model = model_of([helper.make_node("Gather", ["table", "c"], ["y"], axis=1)], {"c": np.arange(first, first + 300)})
    model.graph.node.insert(0, helper.make_node("Tile", ["x", "times"], ["table"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 200]), "times"))
    store_compactly(model)
    assert [value.dtype for value in stored(model).values() if value.size == 300] == [dtype]
    onnx.checker.check_model(model, full_check=True)
    x = np.arange(300, dtype=np.float32)[None]
    result = onnxruntime_session(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(result, np.tile(x, 200)[:, first : first + 300])


def test_tables_whose_halves_vary_along_few_axes_keep_these_alone():
    rng = np.random.default_rng(0)
    by_row, by_column = rng.standard_normal((2, 5, 1, 15)), rng.standard_normal((2, 1, 5, 15))
    wide = [np.broadcast_to(half, (2, 5, 5, 15)) for half in (by_row, by_column)]
    table = np.concatenate(wide, axis=-1).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[5, 300]),
        helper.make_node("Reshape", ["c", "shape"], ["rows"]),
        helper.make_node("Add", ["x", "rows"], ["y"]),
    ]
    model = model_of(nodes, {"c": table})
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 5
    store_compactly(model)
    kept = stored(model)
    assert sum(value.size for value in kept.values() if value.dtype == np.float32) == by_row.size + by_column.size
    onnx.checker.check_model(model, full_check=True)
    for _ in range(2):
        result = onnxruntime_session(model.SerializeToString()).run(None, {"x": np.zeros((1, 300), np.float32)})[0]
        np.testing.assert_array_equal(result.reshape(table.shape), table)
        fold_constants(model)  # which gives readers of the graph the whole table back
    assert [node.op_type for node in model.graph.node] == ["Add"]


def test_a_table_that_varies_along_all_axes_stays():
    table = np.random.default_rng(0).standard_normal((2, 5, 5, 6)).astype(np.float32)
    rows = [
        helper.make_node("Constant", [], ["s"], value_ints=[1, 300]),
        helper.make_node("Reshape", ["c", "s"], ["r"]),
    ]
    model = model_of([*rows, helper.make_node("Add", ["x", "r"], ["y"])], {"c": table})
    store_compactly(model)
    assert list(stored(model)) == ["c"]
