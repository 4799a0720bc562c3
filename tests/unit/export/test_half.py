import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.half import BFLOAT16_OPSET, PRECISIONS, emulate, half_operators, to_half
from latent_pmrf.evaluation.bundle import onnxruntime_session
from tests.small_graphs import SIDE, attention, model_of, residual

RNG = np.random.default_rng(7)


def types_of(content):
    """Element types of what each operator puts out, by name."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def run(content, **feeds):
    return onnxruntime_session(content).run(None, feeds)[0]


@pytest.mark.parametrize(("precision", "kind"), [("float16", TensorProto.FLOAT16), ("bfloat16", TensorProto.BFLOAT16)])
def test_products_are_half_and_sums_norms_and_residuals_are_not(precision, kind):
    types = types_of(to_half(residual(), precision))
    assert types["product"] == types["moved"] == kind
    assert {types[name] for name in ("normed", "sum", "squashed")} == {TensorProto.FLOAT}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_and_softmax_stay_in_float32_and_what_is_weighted_with_them_does_not(precision):
    half = to_half(attention(), precision)
    types = types_of(half)
    assert {types[name] for name in ("logits", "scaled", "masked", "weights")} == {TensorProto.FLOAT}
    assert half_operators(half) == {"MatMul": 4, "Transpose": 1}  # three projections, the key, the weighted values


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_and_outputs_keep_their_names_shapes_and_types(precision):
    before, after = onnx.load_from_string(residual()).graph, onnx.load_from_string(to_half(residual(), precision)).graph
    for side in ("input", "output"):
        assert [value.name for value in getattr(after, side)] == [value.name for value in getattr(before, side)]
        assert [value.type for value in getattr(after, side)] == [value.type for value in getattr(before, side)]


def test_a_product_that_is_the_graph_s_output_is_widened():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    half = to_half(model_of([node], {"w": np.eye(SIDE, dtype=np.float32)}), "float16")
    x = np.full((1, SIDE), 2049, np.float32)
    assert run(half, x=x).dtype == np.float32
    assert run(emulate(half), x=x).tolist() == [[2048.0] * SIDE]  # the nearest that float16 has


def test_bfloat16_takes_the_first_opset_with_convolutions_of_that_type():
    assert onnx.load_from_string(to_half(residual(), "bfloat16")).opset_import[0].version == BFLOAT16_OPSET


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", [residual, attention])
def test_emulation_is_near_the_float32_graph_and_not_the_same(graph, precision):
    content = graph()
    x = RNG.standard_normal((3, SIDE)).astype(np.float32)
    exact, rounded = run(content, x=x), run(emulate(to_half(content, precision)), x=x)
    error = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 0 < error < (0.003 if precision == "float16" else 0.03)


def test_emulation_overflows_where_the_type_does():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    content = model_of([node], {"w": np.eye(SIDE, dtype=np.float32) * 300})
    x = np.full((1, SIDE), 300, np.float32)
    assert np.isinf(run(emulate(to_half(content, "float16")), x=x)).all()
    np.testing.assert_allclose(run(emulate(to_half(content, "bfloat16")), x=x), 90000, rtol=0.01)


def test_float16_is_run_by_onnxruntime_itself():
    content = residual()
    x = RNG.standard_normal((2, SIDE)).astype(np.float32)
    np.testing.assert_allclose(run(to_half(content, "float16"), x=x), run(content, x=x), atol=0.01)


def test_weights_beyond_the_type_are_refused():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(ValueError, match="w has numbers beyond the range of float16"):
        to_half(model_of([node], {"w": np.full((SIDE, SIDE), 1e5, np.float32)}), "float16")


def test_compact_storage_is_undone_before_and_weights_are_stored_once():
    weights = RNG.standard_normal((SIDE, SIDE)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["w.float16"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    half = onnx.load_from_string(to_half(model_of(nodes, {"w.float16": weights}), "float16"))
    assert [numpy_helper.to_array(tensor).dtype for tensor in half.graph.initializer] == [np.float16]
    np.testing.assert_array_equal(numpy_helper.to_array(half.graph.initializer[0]), weights)


def test_a_constant_that_both_precisions_use_is_there_in_both():
    weights = RNG.standard_normal((SIDE, SIDE)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("ReduceL2", ["w", "axes"], ["norms"], keepdims=0),
        helper.make_node("Div", ["product", "norms"], ["y"]),
    ]
    content = model_of(nodes, {"w": weights, "axes": np.array([0])})
    x = RNG.standard_normal((1, SIDE)).astype(np.float32)
    np.testing.assert_allclose(run(to_half(content, "float16"), x=x), run(content, x=x), atol=0.02)


def test_converting_again_gives_the_same_bytes():
    assert to_half(attention(), "float16") == to_half(attention(), "float16")
