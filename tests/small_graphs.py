"""Graphs of a few operators, for tests of what is done to graphs."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16


def model_of(nodes, constants, shape=("batch", SIDE), opset=18):
    """A serialised model from `x` to `y`, both float32 of `shape`; constants keep their types."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def residual():
    """x + sigmoid(reshaped product of the normalised x): a block of the usual kind."""
    generator = np.random.default_rng(1)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain"], ["normed"]),
        helper.make_node("MatMul", ["normed", "w"], ["product"]),
        helper.make_node("Reshape", ["product", "sizes"], ["moved"]),
        helper.make_node("Sigmoid", ["moved"], ["squashed"]),
        helper.make_node("Add", ["x", "squashed"], ["sum"]),
        helper.make_node("Mul", ["sum", "two"], ["y"]),
    ]
    constants = {
        "gain": np.ones(SIDE, np.float32),
        "w": generator.standard_normal((SIDE, SIDE)).astype(np.float32),
        "sizes": np.array([-1, SIDE]),
        "two": np.array(2, np.float32),
    }
    return model_of(nodes, constants)


def attention():
    """Masked attention among the rows of x."""
    generator = np.random.default_rng(2)
    nodes = [
        *(helper.make_node("MatMul", ["x", f"w_{name}"], [name]) for name in "qkv"),
        helper.make_node("Transpose", ["k"], ["k_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["q", "k_t"], ["logits"]),
        helper.make_node("Mul", ["logits", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    constants = {f"w_{name}": generator.standard_normal((SIDE, SIDE)).astype(np.float32) / 4 for name in "qkv"}
    constants |= {"scale": np.array(0.25, np.float32), "mask": np.array([[0, -127, 0]], np.float32)}
    return model_of(nodes, constants, (3, SIDE))
