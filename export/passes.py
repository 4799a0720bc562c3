"""Changes to an exported graph that leave its function alone: faster masks, smaller files, the same bytes each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

MASK_FLOOR = -127.0
"""Least value of an additive attention mask: the least that a byte holds.

Trained networks have logits that differ by 50 and more, so that -60 let hidden keys through (the parity gate showed
it). onnxruntime clips the exponent of its softmax at -88.4 and so fills the matrix with denormals, which slows it down
on some processors. A session could take denormals for zero, but onnxruntime then changes the calling thread for good.
"""

_LEAST_ELEMENTS = 256
"""Smaller tensors are not worth a node."""


def clip_masks(model: onnx.ModelProto) -> None:
    """Raise constants that are added to the input of a softmax to at least `MASK_FLOOR`, in place."""
    makers = {name: node for node in model.graph.node for name in node.output}
    added: set[str] = set()
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "Softmax" else None
        if maker is not None and maker.op_type == "Add":
            added.update(maker.input)
    for tensor in model.graph.initializer:
        if tensor.name in added and tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.size and values.min() < MASK_FLOOR:
                clipped = np.maximum(values, np.float32(MASK_FLOOR))
                tensor.CopyFrom(numpy_helper.from_array(clipped, tensor.name))


def store_compactly(model: onnx.ModelProto) -> None:
    """Store float32 constants in the smallest type that holds them exactly, before a Cast, in place.

    Weights that were rounded to half precision become float16, masks int8. onnxruntime folds the casts once, when it
    loads the file.
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
