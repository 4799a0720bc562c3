"""A float32 graph to one that computes its products in half precision, by the rule of PyTorch's autocast.

    model (float32) -> precision of every operator -> casts where it changes -> model (float16 or bfloat16 inside)

Products of weights and activations are computed in half precision, for that is where a GPU gains. What sums, divides,
exponentiates or normalises stays float32, and so do the products that give the logits of an attention: those of the
trained velocity differ by more than 50, where the next half-precision number is 0.03 away in float16 and 0.25 in
bfloat16. Everything else has the widest type of its inputs, which leaves residual streams in float32. Inputs and
outputs of the graph stay float32. Runtimes that take a graph's types as they are (onnxruntime, a strongly typed
TensorRT network) then compute what was gated.

The converters of onnxruntime and onnxconverter-common know float16 only, and choose by kind of operator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.passes import fold_constants

Precision = Literal["float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float16", "bfloat16")

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Computed in half precision, unless they give logits."""

WIDEST = frozenset(
    {
        *("Add", "Sub", "Mul", "Relu", "Identity"),
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Gather"),
        *("DepthToSpace", "SpaceToDepth"),
    }
)
"""Computed in the widest type of their inputs; constants among these take the type of the others."""

BFLOAT16_OPSET = 22
"""The first in which a convolution may be bfloat16."""

_TYPES: Mapping[Precision, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_LARGEST: Mapping[Precision, float] = {"float16": 65504.0, "bfloat16": 3.3895314e38}


def to_half(content: bytes, precision: Precision) -> bytes:
    """The same network with its products in half precision.

    Args:
        content: A float32 graph as `to_onnx` or `export.detector` writes it.
        precision: Type of the products.

    Returns:
        The serialised model. Inputs and outputs have the names, shapes and types that they had.

    Raises:
        ValueError: A weight is beyond the range of the type.
    """
    model = onnx.load_from_string(content)
    fold_constants(model)  # so that weights stand where they are multiplied
    if precision == "bfloat16":
        model = onnx.version_converter.convert_version(model, BFLOAT16_OPSET)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    _Conversion(model, precision, types).run()
    onnx.checker.check_model(model, full_check=True)
    converted: bytes = model.SerializeToString(deterministic=True)
    return converted


def half_operators(content: bytes) -> dict[str, int]:
    """How many operators of each kind compute in half precision; casts do not count."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    halves = _half_values(model)
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type != "Cast" and node.output[0] in halves:
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def emulate(content: bytes) -> bytes:
    """A graph that computes in float32 what `to_half`'s result computes in half precision.

    Every half-precision operator is given its rounded inputs in float32, and its result is rounded. That is what a GPU
    does which adds up products in float32, up to the order of the sums. It runs where a type has no kernels, and no
    runtime can skip the rounding by joining operators.

    Args:
        content: The serialised model of `to_half`.
    """
    model = onnx.load_from_string(content)
    halves = _half_values(onnx.shape_inference.infer_shapes(model))
    nodes = []
    for node in model.graph.node:
        touched = [name for name in (*node.input, *node.output) if name in halves]
        if node.op_type == "Cast" or not touched:
            nodes.append(node)
            continue
        for position, name in enumerate(node.input):
            if name in halves:
                wide = f"{name}.wide.{node.output[0]}.{position}"
                nodes.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
                node.input[position] = wide
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in halves:
                node.output[position] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [f"{name}.exact"], [name], to=halves[name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    emulated: bytes = model.SerializeToString(deterministic=True)
    return emulated


def _half_values(inferred: onnx.ModelProto) -> dict[str, int]:
    """Names of half-precision tensors with their types; the graph's inputs and outputs are never among them."""
    kinds = set(_TYPES.values())
    found = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    found |= {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    return {name: kind for name, kind in found.items() if kind in kinds}


@dataclass(slots=True)
class _Conversion:
    """One run over a graph, in order.

    Attributes:
        model: Changed in place.
        precision: Type of the products.
        types: Element type of every value of the float32 graph.
        halves: Values that are in half precision so far.
        casts: Values in another type than they were made in, by name and type.
        nodes: The new graph.
    """

    model: onnx.ModelProto
    precision: Precision
    types: Mapping[str, int]
    halves: set[str] = field(default_factory=set)
    casts: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def run(self) -> None:
        graph = self.model.graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        floats = {name for name, kind in self.types.items() if kind == TensorProto.FLOAT}
        floats |= {name for name, value in constants.items() if value.dtype == np.float32}
        logits = _logit_products(graph, constants)
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            inputs = [name for name in node.input if name in floats]
            half = self._in_half(node, inputs, constants.keys(), node.output[0] in logits)
            target = _TYPES[self.precision] if half else TensorProto.FLOAT
            for position, name in enumerate(node.input):
                if name in floats:
                    node.input[position] = self._as(name, target, constants)
            self.nodes.append(node)
            if half:
                self._mark(node, floats, outputs)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(kept)
        for name, kind in [key for key, made in self.casts.items() if made in used and key[0] in constants]:
            graph.initializer.append(self._constant(name, kind, constants[name]))

    def _in_half(self, node: onnx.NodeProto, inputs: list[str], constants: Collection[str], gives_logits: bool) -> bool:
        if node.op_type in PRODUCTS:
            return not gives_logits
        varying = [name for name in inputs if name not in constants]
        return node.op_type in WIDEST and bool(varying) and all(name in self.halves for name in varying)

    def _as(self, name: str, target: int, constants: Mapping[str, npt.NDArray[np.generic]]) -> str:
        """Name of the value in the type `target`; makes what is needed for it."""
        own = _TYPES[self.precision] if name in self.halves else TensorProto.FLOAT
        if own == target:
            return name
        if (name, target) not in self.casts:
            made = f"{name}.{self.precision if target == _TYPES[self.precision] else 'float32'}"
            self.casts[name, target] = made
            if name not in constants:
                self.nodes.append(helper.make_node("Cast", [name], [made], name=f"{made}.cast", to=target))
        return self.casts[name, target]

    def _mark(self, node: onnx.NodeProto, floats: set[str], outputs: set[str]) -> None:
        """Remember results in half precision; those of the graph are widened."""
        for position, name in enumerate(node.output):
            if name not in floats:
                continue
            if name in outputs:
                made = f"{name}.{self.precision}"
                node.output[position] = made
                self.nodes.append(helper.make_node("Cast", [made], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
            else:
                self.halves.add(name)

    def _constant(self, name: str, kind: int, values: npt.NDArray[np.generic]) -> TensorProto:
        if np.abs(values).max(initial=0) > _LARGEST[self.precision]:
            raise ValueError(f"{name} has numbers beyond the range of {self.precision}")
        narrow = values.astype(helper.tensor_dtype_to_np_dtype(kind))
        return numpy_helper.from_array(narrow, self.casts[name, kind])


def _logit_products(graph: onnx.GraphProto, constants: Mapping[str, object]) -> set[str]:
    """Results of the products of two activations that reach a softmax without another product between."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [node.input[0] for node in graph.node if node.op_type == "Softmax"]
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type not in PRODUCTS:
            waiting.extend(node.input)
        elif not any(given in constants for given in node.input):
            found.add(node.output[0])
    return found
