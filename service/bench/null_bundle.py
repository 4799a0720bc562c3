"""A bundle whose networks cost nothing, with the signatures of another: what is left is all that is not a network.

Every network gives zeros; the detector, where it is null too, one face in the middle of each picture.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.core import detector
from service.core.manifest import Manifest, NetworkSpec, TensorSpec

_STRIDE_PX = 4
_LARGEST_PX = 450  # a coarse level of a photo, or a view of a face; finer levels are cut into tiles, which show nothing
_SCORE = 0.9
#: Shares of the box, y and x, of CenterFace's five points for a face that looks into the camera.
_LANDMARKS = (0.38, 0.3, 0.38, 0.7, 0.58, 0.5, 0.76, 0.34, 0.76, 0.66)
_OPSET, _IR_VERSION = 18, 9


def write_null_bundle(repository: Path, like: Manifest, *, real_detector: Path | None = None) -> Path:
    """Write it; returns the folder.

    Args:
        repository: An empty folder.
        like: The bundle whose signatures, steps and sizes it has.
        real_detector: A detector's file to be taken in place of the null one.
    """
    networks = {
        name: _written(repository / spec.file, _zeros(name, spec), spec) for name, spec in like.networks.items()
    }
    manifest = like.model_copy(update={"name": "null", "networks": networks})
    (repository / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    file = repository / detector.DETECTOR / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    if real_detector is None:
        file.write_bytes(_one_face())
    else:
        shutil.copyfile(real_detector, file)
    return repository


def _written(file: Path, content: bytes, spec: NetworkSpec) -> NetworkSpec:
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return spec.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})


def _zeros(name: str, spec: NetworkSpec) -> bytes:
    """A graph that gives as many rows of zeros as it is given rows."""
    first, output = spec.inputs[0], spec.outputs[0]
    nodes = [
        helper.make_node("Shape", [first.name], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "sizes"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], [output.name]),
    ]
    sizes = np.array(output.shape[1:], np.int64)
    return _model(name, nodes, spec.inputs, spec.outputs, {"sizes": sizes})


def _one_face() -> bytes:
    """A detector that finds a face in the middle of every small picture, half as high as it: one in a photo."""
    zeros = numpy_helper.from_array(np.zeros(1, np.float32))
    nodes = [
        helper.make_node("Shape", ["image"], ["rows"], start=0, end=1),
        helper.make_node("Shape", ["image"], ["sides_px"], start=2, end=4),
        helper.make_node("Div", ["sides_px", "stride"], ["sides"]),
        # Where it is: a heap of zeros with one high place for each picture.
        helper.make_node("Div", ["sides", "two"], ["middle"]),
        helper.make_node("Squeeze", ["rows", "front"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["numbers"]),
        helper.make_node("Unsqueeze", ["numbers", "behind"], ["column"]),
        helper.make_node("Concat", ["rows", "three"], ["rest_shape"], axis=0),
        helper.make_node("Concat", ["front", "middle"], ["rest"], axis=0),
        helper.make_node("Expand", ["rest", "rest_shape"], ["rests"]),
        helper.make_node("Concat", ["column", "rests"], ["places"], axis=1),
        helper.make_node("ReduceMax", ["sides_px"], ["longest"], keepdims=1),
        helper.make_node("Less", ["longest", "largest"], ["is_small"]),
        helper.make_node("Where", ["is_small", "high", "low"], ["score"]),
        helper.make_node("Expand", ["score", "rows"], ["scores"]),
        # How large it is: the logarithm of its sides in cells.
        helper.make_node("ReduceMin", ["sides"], ["shortest"], keepdims=1),
        helper.make_node("Cast", ["shortest"], ["cells"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cells", "share"], ["face_cells"]),
        helper.make_node("Log", ["face_cells"], ["scales"]),
    ]
    for tensor in detector.OUTPUTS:
        channels = f"{tensor.name}_channels"
        nodes += [
            helper.make_node("Concat", ["rows", channels, "sides"], [f"{tensor.name}_shape"], axis=0),
            helper.make_node("ConstantOfShape", [f"{tensor.name}_shape"], [f"{tensor.name}_zeros"], value=zeros),
        ]
    nodes += [
        helper.make_node("ScatterND", ["heatmap_zeros", "places", "scores"], ["heatmap"]),
        helper.make_node("Add", ["scale_zeros", "scales"], ["scale"]),
        helper.make_node("Identity", ["offset_zeros"], ["offset"]),
        helper.make_node("Add", ["landmarks_zeros", "shares"], ["landmarks"]),
    ]
    whole = {
        "stride": [_STRIDE_PX],
        "largest": [_LARGEST_PX],
        "two": [2],
        "three": [3],
        "front": [0],
        "behind": [1],
        "zero": 0,
        "one": 1,
    }
    constants: dict[str, npt.NDArray[np.generic]] = {
        **{name: np.array(value, np.int64) for name, value in whole.items()},
        "high": np.array([_SCORE], np.float32),
        "low": np.zeros(1, np.float32),
        "share": np.array([0.5, 0.4], np.float32).reshape(1, 2, 1, 1),
        "shares": np.array(_LANDMARKS, np.float32).reshape(1, -1, 1, 1),
        **{f"{tensor.name}_channels": np.array([tensor.shape[1]], np.int64) for tensor in detector.OUTPUTS},
    }
    return _model(detector.DETECTOR, nodes, detector.INPUTS, detector.OUTPUTS, constants)


def _model(
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    constants: Mapping[str, npt.NDArray[np.generic]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        name,
        [_value(tensor) for tensor in inputs],
        [_value(tensor) for tensor in outputs],
        [numpy_helper.from_array(value, constant) for constant, value in constants.items()],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _value(tensor: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape)
