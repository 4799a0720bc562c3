"""Changes to an exported graph that leave its function alone: smaller files, the same bytes each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_LEAST_ELEMENTS = 256
"""Smaller tensors are not worth a node."""


def store_compactly(model: onnx.ModelProto) -> None:
    """Store float32 constants in the smallest type that holds them exactly, before a Cast, in place.

    Weights that were rounded to half precision become float16, and so do masks. onnxruntime folds the casts once, when
    it loads the file.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        stored = _smallest(values) if values.size >= _LEAST_ELEMENTS else None
        if stored is None:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}.{stored.dtype}"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _smallest(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8] | npt.NDArray[np.float16] | None:
    """`values` in the smallest type that gives them back exactly, or None."""
    if np.abs(values).max() <= 127 and np.array_equal(np.rint(values), values):
        return values.astype(np.int8)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None


def tidy(model: onnx.ModelProto) -> None:
    """Remove what tells where and how the file was made (paths, stack traces), and shapes that readers infer."""
    graph = model.graph
    parts: tuple[Any, ...] = (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output)
    for part in parts:
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    del graph.value_info[:]
