"""Changes to an exported graph that leave its function alone: smaller files, the same bytes each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_LEAST_ELEMENTS = 256
"""Smaller tensors are not worth a node."""


def store_compactly(model: onnx.ModelProto) -> None:
    """Store constants exactly in fewer bytes, with the operators that give them back, in place.

    Weights that were rounded to half precision become float16 before a Cast; masks become int8, times their depth;
    tables whose halves vary along few axes, such as those of rotary angles, keep these alone; indices become int16.
    onnxruntime computes them once, when it loads the file.
    """
    widened = []
    for tensor in list(model.graph.initializer):
        kind = tensor.data_type
        values = numpy_helper.to_array(tensor)
        if kind not in (TensorProto.FLOAT, TensorProto.INT64) or values.size < _LEAST_ELEMENTS:
            continue
        stored = _smallest(values) if kind == TensorProto.FLOAT else _short(values)
        if stored is None:
            halves = _varying_halves(values) if kind == TensorProto.FLOAT else None
            if halves is not None:
                model.graph.initializer.remove(tensor)
                widened += _joined_halves(model.graph, tensor.name, values.shape, halves)
            continue
        name, unit = tensor.name, stored.unit
        tensor.CopyFrom(numpy_helper.from_array(stored.values, f"{name}.{stored.values.dtype}"))
        cast = name if unit == 1 else f"{name}.units"
        widened.append(helper.make_node("Cast", [tensor.name], [cast], name=f"{name}.cast", to=kind))
        if unit != 1:
            depth = f"{name}.unit"
            widened.append(helper.make_node("Constant", [], [depth], name=depth, value_float=unit))
            widened.append(helper.make_node("Mul", [cast, depth], [name], name=f"{name}.scale"))
    nodes = [*widened, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Numbers in a small type; each times `unit` is what they stand for."""

    values: npt.NDArray[np.int8] | npt.NDArray[np.int16] | npt.NDArray[np.float16]
    unit: float = 1.0


def _smallest(values: npt.NDArray[np.float32]) -> _Stored | None:
    """`values` in the smallest type that gives them back exactly, or None."""
    largest = float(np.abs(values).max())
    if largest <= 127 and np.array_equal(np.rint(values), values):
        return _Stored(values.astype(np.int8))
    if np.isin(values, (0, -largest)).all():
        return _Stored(np.sign(values).astype(np.int8), largest)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return _Stored(half) if np.array_equal(half.astype(np.float32), values) else None


def _short(values: npt.NDArray[np.int64]) -> _Stored | None:
    """Integers in half a word, or None."""
    short = values.astype(np.int16)
    return _Stored(short) if np.array_equal(short, values) else None


def _varying_halves(values: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]] | None:
    """The halves of the last axis without the other axes along which they are constant; None if that gains little."""
    if values.shape[-1] % 2:
        return None
    halves = []
    for half in np.split(values, 2, axis=-1):
        for axis in range(half.ndim - 1):
            first = half.take([0], axis)
            half = first if np.array_equal(np.broadcast_to(first, half.shape), half) else half
        halves.append(np.ascontiguousarray(half))
    return halves if 2 * sum(half.size for half in halves) <= values.size else None


def _joined_halves(
    graph: onnx.GraphProto, name: str, shape: tuple[int, ...], halves: list[npt.NDArray[np.float32]]
) -> list[onnx.NodeProto]:
    """Operators that give the tensor `name` back; what they start from is added to the constants of the graph."""
    wide = f"{name}.half_shape"
    graph.initializer.append(numpy_helper.from_array(np.array([*shape[:-1], shape[-1] // 2], dtype=np.int64), wide))
    nodes = []
    for number, half in enumerate(halves):
        graph.initializer.append(numpy_helper.from_array(half, f"{name}.half{number}"))
        nodes.append(helper.make_node("Expand", [f"{name}.half{number}", wide], [f"{name}.wide{number}"]))
    joined = helper.make_node("Concat", [node.output[0] for node in nodes], [name], name=f"{name}.join", axis=-1)
    return [*nodes, joined]


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute what depends on constants alone and store it, in place: what runtimes do when they load a file.

    For those who read a graph and want weights where an operator takes them: undoes `store_compactly` too.
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made: dict[str, npt.NDArray[np.generic]] = {}
    kept = []
    for node in graph.node:
        if any(name not in constants for name in node.input):
            kept.append(node)
            continue
        feeds = {name: constants[name] for name in node.input}
        values: Any = ReferenceEvaluator(_alone(node, model, feeds)).run(None, feeds)
        found = dict(zip(node.output, values, strict=True))
        made |= found
        constants |= found
    outputs = {value.name for value in graph.output}
    used = {name for node in kept for name in node.input} | outputs
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    tensors += [numpy_helper.from_array(np.asarray(value), name) for name, value in made.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)


def _alone(node: onnx.NodeProto, model: onnx.ModelProto, feeds: dict[str, npt.NDArray[np.generic]]) -> onnx.ModelProto:
    """A model of one operator."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "constant", inputs, outputs)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def tidy(model: onnx.ModelProto) -> None:
    """Remove what tells where and how the file was made (paths, stack traces), and shapes that readers infer."""
    graph = model.graph
    parts: tuple[Any, ...] = (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output)
    for part in parts:
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    del graph.value_info[:]
