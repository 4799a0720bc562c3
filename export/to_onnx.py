"""One network to one ONNX file: standard operators of opset 18, a free batch dimension, everything else fixed.

    module -> torch.export -> ONNX -> simplify -> rewrites (speed) -> passes (storage, tidying) -> checked bytes

Two operators are translated here rather than by PyTorch, because onnxruntime recognises these forms and fuses them, and
does not recognise PyTorch's (figures in docs/EXPERIMENTS.md).
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import onnx
import torch
from onnxscript import opset18 as op

from export.networks import GraphSpec
from export.passes import store_compactly, tidy
from export.rewrites import join_upsampling, normalise_last
from export.simplify import simplify
from latent_pmrf.nets.hdit import HDiT

OPSET = 18
IR_VERSION = 8
"""The format version that came with opset 18: any onnxruntime that knows the opset reads it."""
BATCH = "batch"
Value: TypeAlias = Any
"""A tensor while onnxscript records operators; it has no type of its own that fits both modes."""

_EXAMPLE_BATCH = 3
"""Neither 1 nor 2, which `torch.export` may take for constants."""


def to_onnx(spec: GraphSpec, properties: Mapping[str, str] | None = None) -> bytes:
    """Export one network; the same network gives the same bytes.

    Args:
        spec: The network and its tensors; a velocity's masks become as deep as they need to be.
        properties: Metadata of the file.

    Returns:
        The serialised model, weights inside.

    Raises:
        onnx.checker.ValidationError: The result is not a valid model.
    """
    model = _convert(spec)
    join_upsampling(model)
    normalise_last(model)
    store_compactly(model)
    tidy(model)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "latent-pmrf export", ""
    model.graph.name = spec.name
    onnx.helper.set_model_props(model, dict(properties or {}))
    faces = zip((*model.graph.input, *model.graph.output), (*spec.inputs, spec.output), strict=True)
    for value, face in faces:
        shape = value.type.tensor_type.shape
        fixed = [dim.dim_value for dim in shape.dim[1:]]
        if value.name != face.name or fixed != list(face.shape):
            raise ValueError(f"{spec.name}: expected {face.name} (batch, {face.shape}), exported {value.name} {fixed}")
        shape.dim[0].dim_param = BATCH
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _convert(spec: GraphSpec) -> onnx.ModelProto:
    if isinstance(spec.module, HDiT):
        spec.module.fit_masks_()
    arguments = tuple(torch.zeros(_EXAMPLE_BATCH, *face.shape) for face in spec.inputs)
    batch = torch.export.Dim(BATCH)
    with torch.no_grad(), _quiet():
        # A first call fills the networks' caches of masks and rotations with real tensors; what a call inside the
        # exporter would put there is the exporter's own kind of tensor, useless afterwards.
        spec.module(*arguments)
        program = torch.onnx.export(
            spec.module,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=[face.name for face in spec.inputs],
            output_names=[spec.output.name],
            dynamic_shapes=tuple({0: batch} for _ in spec.inputs),
            external_data=False,
            optimize=False,
            verbose=False,
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: _attention,
                torch.ops.aten.gelu.default: _gelu,
            },
        )
    if program is None:
        raise RuntimeError(f"{spec.name}: torch.onnx.export gave no program")
    simplify(program.model)
    proto: onnx.ModelProto = program.model_proto
    return proto


def _attention(  # noqa: PLR0913 - PyTorch's signature
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Attention on (B, heads, N, d); the transposed key and the scale become part of onnxruntime's product."""
    if dropout_p or is_causal or enable_gqa or len(query.shape) != 4:
        raise ValueError("only plain attention on four dimensions can be exported")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2]))
    if factor != 1.0:
        logits = op.Mul(logits, op.Constant(value_float=float(factor)))
    if attn_mask is not None:
        logits = op.Add(logits, attn_mask)
    return op.MatMul(op.Softmax(logits, axis=-1), value)


def _gelu(x: Value, approximate: str = "none") -> Value:
    """The exact GELU in the order of factors that onnxruntime knows."""
    if approximate != "none":
        raise ValueError("only the exact GELU can be exported")
    one_plus = op.Add(op.Erf(op.Div(x, op.Constant(value_float=math.sqrt(2.0)))), op.Constant(value_float=1.0))
    return op.Mul(op.Mul(x, one_plus), op.Constant(value_float=0.5))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence PyTorch's exporter, which reports its own deprecations and packages that nobody asked for."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
