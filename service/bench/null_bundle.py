"""A bundle whose networks cost nothing, with the signatures of another: what is left is all that is not a network.

Every network gives zeros; the detector is the other's.
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

_OPSET, _IR_VERSION = 18, 9


def write_null_bundle(repository: Path, like: Manifest, detector_file: Path) -> Path:
    """Write it; returns the folder.

    Args:
        repository: An empty folder.
        like: The bundle whose signatures, steps and sizes it has.
        detector_file: Its detector.
    """
    networks = {
        name: _written(repository / spec.file, _zeros(name, spec), spec) for name, spec in like.networks.items()
    }
    # Zeros are far from any photo: the checks are made, and let all pass.
    limits = {"max_coarse_shift": 1.0, "max_roughness": 1.0}
    manifest = like.model_copy(update={"name": "null", "networks": networks, **limits})
    (repository / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    file = repository / detector.DETECTOR / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    shutil.copyfile(detector_file, file)
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
