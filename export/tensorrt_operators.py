"""Whether TensorRT can take a graph, as far as its operators tell: what is asked before an hour of building.

    ONNX graph, tensorrt_operators.json (the published table of TensorRT 10.15) -> reasons against it

The table's restrictions are checked for the operators that the project's graphs have. What only the builder knows (no
kernel for a shape, too little memory) shows in the build.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from export.passes import fold_constants

_FILE = Path(__file__).with_suffix(".json")
_FLOATS: Mapping[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_RESIZES: Mapping[str, frozenset[str]] = {
    "mode": frozenset({"nearest", "linear"}),
    "coordinate_transformation_mode": frozenset(
        {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
    ),
    "nearest_mode": frozenset({"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"}),
}


@dataclass(frozen=True, slots=True)
class Table:
    """What TensorRT publishes of its operators.

    Attributes:
        tensorrt: The version it was published for.
        opset: First and last operator set.
        floats: Floating types by operator.
    """

    tensorrt: str
    opset: tuple[int, int]
    floats: Mapping[str, frozenset[str]]


def load_table() -> Table:
    """Read the checked-in table."""
    raw: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    floats = {
        operator: frozenset(filter(None, types.split(", ")))
        for types, operators in raw["floats"].items()
        for operator in operators
    }
    first, last = raw["opset"]
    return Table(raw["tensorrt"], (first, last), floats)


def objections(content: bytes) -> list[str]:
    """Every reason why TensorRT would refuse a graph; empty where there is none.

    Args:
        content: A serialised ONNX model, weights inside.
    """
    table = load_table()
    model = onnx.load_from_string(content)
    fold_constants(model)  # as TensorRT does before it looks for kernels
    found = list(_versions(model, table))
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    graph = inferred.graph
    values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        label = f"{node.op_type} {node.output[0]}"
        if node.domain or node.op_type not in table.floats:
            found.append(f"{label}: no such operator in TensorRT {table.tensorrt}")
            continue
        kinds = {stored.get(name) or (values[name].elem_type if name in values else 0) for name in node.input if name}
        floats = {_FLOATS[kind] for kind in kinds if kind in _FLOATS}
        found += [f"{label}: not in {kind}" for kind in sorted(floats - table.floats[node.op_type])]
        found += [f"{label}: {reason}" for reason in _restrictions(node, stored)]
        found += [f"{label}: the shape of {name} is not known" for name in node.output if not _is_known(values, name)]
    return found


def _versions(model: onnx.ModelProto, table: Table) -> Iterator[str]:
    first, last = table.opset
    for entry in model.opset_import:
        if not entry.domain and not first <= entry.version <= last:
            yield f"opset {entry.version}: TensorRT {table.tensorrt} takes {first} to {last}"


def _restrictions(node: onnx.NodeProto, stored: Mapping[str, int]) -> Iterator[str]:
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == "Resize":
        for name, allowed in _RESIZES.items():
            value = attributes.get(name)
            if value is not None and value.decode() not in allowed:
                yield f"{name} {value.decode()}"
        if attributes.get("antialias"):
            yield "antialias"
    if node.op_type == "LayerNormalization" and len(list(filter(None, node.output))) > 1:
        yield "only the first output"
    if node.op_type in {"Squeeze", "Unsqueeze"} or node.op_type.startswith("Reduce"):
        yield from (f"axes {name} must be constant" for name in node.input[1:] if name and name not in stored)


def _is_known(values: Mapping[str, onnx.TypeProto.Tensor], name: str) -> bool:
    """Whether everything but the batch is a number, at most one dimension being free."""
    if not name:
        return True
    if name not in values or not values[name].HasField("shape"):
        return False
    return sum(not size.HasField("dim_value") for size in values[name].shape.dim) <= 1
