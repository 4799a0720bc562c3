import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.passes import fold_constants
from export.rewrites import join_upsampling, normalise_last, phase_sums
from latent_pmrf.evaluation.bundle import onnxruntime_session

RNG = np.random.default_rng(11)
CHANNELS, WIDER, HEIGHT, WIDTH = 3, 5, 4, 6
KERNEL = RNG.standard_normal((WIDER, CHANNELS, 3, 3)).astype(np.float32)
BIAS = RNG.standard_normal(WIDER).astype(np.float32)
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
PLAIN = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}


def model_of(nodes, constants, output, inputs=()):
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, HEIGHT, WIDTH]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *output])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def upsampling(resize=NEAREST, scale=2.0, conv=PLAIN, bias=True, extra=()):
    side = int(HEIGHT * scale // conv["strides"][0]), int(WIDTH * scale // conv["strides"][1])
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["large"], **resize),
        helper.make_node("Conv", ["large", "kernel", *["bias"] * bias], ["y"], **conv),
        *extra,
    ]
    constants = {"scales": np.array([1, 1, scale, scale], np.float32), "kernel": KERNEL, "bias": BIAS}
    return model_of(nodes, constants, (WIDER, *side))


def norm(gain, *, source="x", axis=1, channels=CHANNELS):
    """What `rms_normalize` times a gain is in PyTorch's export."""
    nodes = [
        helper.make_node("ReduceL2", [source, "axis"], ["length"]),
        helper.make_node("Mul", ["length", "length"], ["square"]),
        helper.make_node("Div", ["square", "channels"], ["mean"]),
        helper.make_node("Add", ["mean", "eps"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["root"]),
        helper.make_node("Reciprocal", ["root"], ["inverse"]),
        helper.make_node("Mul", ["x", "inverse"], ["normed"]),
        helper.make_node("Mul", ["normed", "gain"], ["y"]),
    ]
    constants = {"axis": np.array([axis]), "channels": np.float32(channels), "eps": np.float32(1e-6)}
    if gain == "weight":
        constants["gain"] = RNG.standard_normal((CHANNELS, 1, 1)).astype(np.float32)
        return model_of(nodes, constants, (CHANNELS, HEIGHT, WIDTH))
    return model_of(nodes, constants, (CHANNELS, HEIGHT, WIDTH), [("gain", ["batch", CHANNELS, 1, 1])])


def feeds(model, rows):
    values = {}
    for value in model.graph.input:
        shape = [size.dim_value or rows for size in value.type.tensor_type.shape.dim]
        values[value.name] = RNG.standard_normal(shape).astype(np.float32)
    return values


def rewritten(model, rewrite):
    """The model after a rewrite that must not change what it computes."""
    before = onnxruntime_session(model.SerializeToString())
    assert rewrite(model) == 1
    onnx.checker.check_model(model, full_check=True)
    after = onnxruntime_session(model.SerializeToString())
    for rows in (1, 3):
        given = feeds(model, rows)
        np.testing.assert_allclose(after.run(None, given)[0], before.run(None, given)[0], rtol=1e-4, atol=1e-5)
    return model


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("bias", [True, False])
def test_upsampling_and_its_convolution_become_four_small_ones_of_the_same_result(bias):
    model = rewritten(upsampling(bias=bias), join_upsampling)
    assert "Resize" not in operators(model)
    assert operators(model).count("Conv") == 4


def test_phases_share_out_the_rows_of_the_kernel():
    assert phase_sums().sum(axis=1).tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    "model",
    [
        upsampling(resize=NEAREST | {"mode": "linear"}),
        upsampling(resize=NEAREST | {"nearest_mode": "ceil"}),
        upsampling(scale=3.0),
        upsampling(conv=PLAIN | {"strides": [2, 2]}),
        upsampling(conv=PLAIN | {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        upsampling(extra=[helper.make_node("Identity", ["large"], ["also"])]),
    ],
    ids=["linear", "ceil", "threefold", "strided", "dilated", "used twice"],
)
def test_other_upsampling_stays_as_it_is(model):
    before = model.SerializeToString()
    assert join_upsampling(model) == 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize("gain", ["weight", "of each row"])
def test_norms_of_pixels_become_one_operator_of_onnxruntime(gain, tmp_path):
    model = rewritten(norm(gain), normalise_last)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "SimplifiedLayerNormalization" in operators(onnx.load(tmp_path / "optimised.onnx"))


@pytest.mark.parametrize("other", [{"axis": 2}, {"channels": 7}], ids=["another axis", "another divisor"])
def test_other_norms_stay_as_they_are(other):
    model = norm("weight", **other)
    before = model.SerializeToString()
    assert normalise_last(model) == 0
    assert model.SerializeToString() == before


def test_folding_leaves_kernels_where_convolutions_take_them_and_the_same_result():
    model = upsampling()
    given = feeds(model, 2)
    expected = onnxruntime_session(model.SerializeToString()).run(None, given)[0]
    join_upsampling(model)
    fold_constants(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert all(node.input[1] in stored for node in convolutions)
    assert not {"MatMul", "Constant", "Squeeze"} & set(operators(model))
    np.testing.assert_allclose(
        onnxruntime_session(model.SerializeToString()).run(None, given)[0], expected, rtol=1e-4, atol=1e-5
    )
