"""Forms of a graph that compute the same for less, in standard operators that every runtime takes.

    model -> upsampling inside the convolution after it, norms of pixels over a last axis -> model

Both came from profiles of onnxruntime on CPUs; what each brought is in docs/profiles/networks.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from export.graph_view import GraphView, Maker

_TO_PIXELS, _TO_MAPS = [0, 2, 3, 1], [0, 3, 1, 2]
"""(B, C, H, W) to (B, H, W, C) and back."""

_DOUBLING = [1.0, 1.0, 2.0, 2.0]
_NEAREST = {"mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
_PLAIN_3X3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}


def join_upsampling(model: onnx.ModelProto) -> int:
    """Turn nearest doubling with a 3x3 convolution after it into four 2x2 convolutions of the small map, in place.

    Every second row of the result sees the same two rows of the small map, one of them through two rows of the kernel,
    whose sum is the kernel of that phase. Four of nine products are left. The sums are operators on the stored kernel:
    runtimes fold them when they load the file, which stays as small as it was.

    Returns:
        How many there were.
    """
    view = GraphView.of(model)
    made: dict[str, list[onnx.NodeProto]] = {}
    for resize in [node for node in model.graph.node if node.op_type == "Resize"]:
        conv = view.only_user(resize.output[0])
        if conv is not None and _doubles(resize, view) and _is_plain_3x3(conv) and conv.input[0] == resize.output[0]:
            made[conv.output[0]] = list(_phases(resize.input[0], conv, view.shapes))
            made[resize.output[0]] = []
    view.replace(made)
    return len(made) // 2


def normalise_last(model: onnx.ModelProto) -> int:
    """Turn RMS norms over the channels of maps into norms over a last axis, as runtimes know and join them, in place.

    Returns:
        How many there were.
    """
    view = GraphView.of(model)
    made: dict[str, list[onnx.NodeProto]] = {}
    found = 0
    for norm in [node for node in model.graph.node if node.op_type == "ReduceL2"]:
        chain = _rms_chain(norm, view)
        if chain is None:
            continue
        found += 1
        made |= {node.output[0]: [] for node in chain.nodes}
        made[chain.nodes[-1].output[0]] = list(_pixel_norm(chain, view.shapes))
    view.replace(made)
    return found


def _is_plain_3x3(node: onnx.NodeProto) -> bool:
    attributes = _attributes(node)
    return node.op_type == "Conv" and all(attributes.get(name) == value for name, value in _PLAIN_3X3.items())


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def phase_sums() -> npt.NDArray[np.float32]:
    """What each kernel row adds to each row that a phase sees, (phase, seen row, kernel row).

    The first phase (even rows) sees the row before and its own, the second its own and the row after.
    """
    even = [[1, 0, 0], [0, 1, 1]]
    odd = [[1, 1, 0], [0, 0, 1]]
    return np.asarray([even, odd], np.float32)


def _phases(small: str, conv: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> list[onnx.NodeProto]:
    """The four convolutions, and their results woven into the large map."""
    name, kernel = conv.output[0], conv.input[1]
    height, width = shapes[small][2:]
    channels = shapes[name][1]
    sums = phase_sums()
    weaving = np.einsum("pak,qbl->klpqab", sums, sums).reshape(9, 16)
    make = Maker(name)
    flat = make("Reshape", kernel, make.numbers([0, 0, 9]))
    kernels = make("Reshape", make("MatMul", flat, make.constant(weaving)), make.numbers([0, 0, 4, 2, 2]))
    by_phase = make.split(kernels, 4, axis=2)
    maps = []
    for phase, own in enumerate(by_phase):
        row, column = divmod(phase, 2)
        pads = [1 - row, 1 - column, row, column]
        inputs = (small, make("Squeeze", own, make.numbers([2])), *conv.input[2:])
        maps.append(make("Conv", *inputs, kernel_shape=[2, 2], pads=pads, strides=[1, 1]))
    # Whole pixels move, which is a copy of runs of channels: onnxruntime takes ten times as long for single numbers.
    pixels = make("Transpose", make("Concat", *maps, axis=1), perm=_TO_PIXELS)
    rows = make("Reshape", pixels, make.numbers([0, height, width, 2, 2 * channels]))
    woven = make("Transpose", rows, perm=[0, 1, 3, 2, 4])
    large = make("Reshape", woven, make.numbers([0, 2 * height, 2 * width, channels]))
    return make.end("Transpose", large, perm=_TO_MAPS)


@dataclass(frozen=True, slots=True)
class _RmsChain:
    """An RMS norm over the channels of a map, as PyTorch's exporter writes it.

    Attributes:
        nodes: Its operators, the last one puts out the result.
        source: The map (B, C, H, W).
        gain: Factors, (B, C, 1, 1) or (C, 1, 1).
        eps: Added to the mean square, the name of a constant.
    """

    nodes: tuple[onnx.NodeProto, ...]
    source: str
    gain: str
    eps: str


def _pixel_norm(chain: _RmsChain, shapes: Mapping[str, Sequence[int]]) -> list[onnx.NodeProto]:
    """The norm over the last axis of (B, H * W, C).

    The square, mean, root and quotient with a constant factor are what onnxruntime joins to one operator. Without the
    reshape it would move the transposition behind them first, and not join them.
    """
    channels, height, width = shapes[chain.source][1:]
    per_row = len(shapes[chain.gain]) == 4
    make = Maker(chain.nodes[-1].output[0])
    pixels = make("Transpose", chain.source, perm=_TO_PIXELS)
    x = make("Reshape", pixels, make.numbers([0, height * width, channels]))
    mean = make("ReduceMean", make("Pow", x, make.constant(np.float32(2))), make.numbers([-1]), keepdims=1)
    normed = make("Div", x, make("Sqrt", make("Add", mean, chain.eps)))
    gain = make("Reshape", chain.gain, make.numbers([-1, 1, channels] if per_row else [channels]))
    if per_row:
        normed = make("Mul", normed, make.constant(np.ones(channels, np.float32)))
    scaled = make("Mul", normed, gain)
    return make.end("Transpose", make("Reshape", scaled, make.numbers([0, height, width, channels])), perm=_TO_MAPS)


def _doubles(resize: onnx.NodeProto, view: GraphView) -> bool:
    """Whether an operator repeats every pixel in both directions."""
    scales = view.constants.get(resize.input[2]) if len(resize.input) == 3 else None
    if scales is None or numpy_helper.to_array(scales).tolist() != _DOUBLING:
        return False
    attributes = _attributes(resize)
    return all(attributes.get(name) == value for name, value in _NEAREST.items())


def _rms_chain(norm: onnx.NodeProto, view: GraphView) -> _RmsChain | None:
    """The RMS norm that begins with the length of every pixel's vector, if there is one."""
    source, axes = norm.input[0], view.constants.get(norm.input[1] if len(norm.input) > 1 else "")
    if axes is None or numpy_helper.to_array(axes).tolist() != [1] or len(view.shapes.get(source, ())) != 4:
        return None
    nodes = [norm]
    for operator in ("Mul", "Div", "Add", "Sqrt", "Reciprocal", "Mul", "Mul"):
        user = view.only_user(nodes[-1].output[0])
        if user is None or user.op_type != operator:
            return None
        nodes.append(user)
    _, square, mean, sum_, _, inverse, product, scaled = nodes
    divisor = view.constants.get(mean.input[1])
    eps = _other(sum_, mean.output[0])
    gain = _other(scaled, product.output[0])
    squares = list(square.input) == [norm.output[0]] * 2
    by_channels = divisor is not None and numpy_helper.to_array(divisor) == view.shapes[source][1]
    per_channel = tuple(view.shapes.get(gain, ()))[-3:] == (view.shapes[source][1], 1, 1)
    if not squares or not by_channels or not per_channel or eps not in view.constants:
        return None
    return _RmsChain(tuple(nodes), source, gain, eps) if _other(product, inverse.output[0]) == source else None


def _other(node: onnx.NodeProto, name: str) -> str:
    """The input of a sum or product beside `name`."""
    return str(node.input[1] if node.input[0] == name else node.input[0])
