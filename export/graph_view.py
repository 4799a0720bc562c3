"""A graph that is being rewritten: what can be asked of it, and how new operators are made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


@dataclass(frozen=True, slots=True)
class GraphView:
    """A graph with what can be asked of it.

    Attributes:
        graph: The graph itself.
        users: Operators that take a value, by its name, each once.
        constants: Stored tensors by name.
        shapes: Sizes by name, 0 for the batch.
        outputs: Names of the graph's outputs.
    """

    graph: onnx.GraphProto
    users: Mapping[str, Sequence[onnx.NodeProto]]
    constants: Mapping[str, onnx.TensorProto]
    shapes: Mapping[str, Sequence[int]]
    outputs: Collection[str]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> GraphView:
        """Look at a model."""
        graph = model.graph
        users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                users.setdefault(name, []).append(node)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        shapes = {
            value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
        }
        constants = {tensor.name: tensor for tensor in graph.initializer}
        shapes |= {name: tuple(tensor.dims) for name, tensor in constants.items()}
        return cls(graph, users, constants, shapes, {value.name for value in graph.output})

    def only_user(self, name: str) -> onnx.NodeProto | None:
        """The one operator that takes a value, or None where the value is needed elsewhere too."""
        users = self.users.get(name, ())
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def replace(self, made: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
        """Put other operators in the place of those with these first outputs, in place."""
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            nodes += made.get(node.output[0], [node])
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


class Maker:
    """Collects new operators; their values are named after the one that they replace, in few bytes.

    Constants are operators too and no initialisers: those of a bundle are the weights of its networks.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; the name of its first result."""
        output = f"{self._name}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        """The names of equal parts of a value."""
        first = f"{self._name}.{len(self._nodes)}"
        outputs = [f"{first}.{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [value], outputs, name=first, axis=axis, num_outputs=parts))
        return outputs

    def constant(self, values: npt.NDArray[np.generic] | np.float32) -> str:
        """The name of a constant."""
        return self("Constant", value=numpy_helper.from_array(np.asarray(values)))

    def numbers(self, values: Sequence[int]) -> str:
        """The name of a constant list of integers."""
        return self("Constant", value_ints=list(values))

    def end(self, operator: str, *inputs: str, **attributes: Any) -> list[onnx.NodeProto]:
        """All operators; the last one, given here, puts out the value that is replaced."""
        node = helper.make_node(operator, inputs, [self._name], name=f"{self._name}.end", **attributes)
        return [*self._nodes, node]
