"""Triton's `config.pbtxt` of each network, from the manifest.

The service calls the networks with the batches of its own sampler; Triton's batcher joins the calls of several workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16"}
_MAX_QUEUE_DELAY_US = 500


def config_pbtxt(name: str, network: Mapping[str, Any]) -> str:
    """The configuration of one network, in protobuf text format.

    Args:
        name: Folder of the network in the model repository.
        network: Its entry in the manifest.
    """
    batches = network.get("batch_sizes") or sorted({1, network["max_batch_size"]})
    parts = [
        "# Written by `export.triton_config` from manifest.json.",
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {network['max_batch_size']}",
        *(_tensor("input", tensor) for tensor in network["inputs"]),
        *(_tensor("output", tensor) for tensor in network["outputs"]),
        f"dynamic_batching {{ max_queue_delay_microseconds: {_MAX_QUEUE_DELAY_US} }}",
        "instance_group [ { count: 1 kind: KIND_AUTO } ]",
        *(_warm_up(rows, network["inputs"]) for rows in batches),
    ]
    return "\n".join(parts) + "\n"


def _tensor(kind: str, tensor: Mapping[str, Any]) -> str:
    """Triton counts no batch dimension and needs at least one other: a bare row of times is sent as (B, 1)."""
    sizes = tensor["shape"][1:]
    reshape = "" if sizes else " reshape: { shape: [ ] }"
    return (
        f'{kind} [ {{ name: "{tensor["name"]}" data_type: {_TYPES[tensor["dtype"]]} '
        f"dims: [ {_dims(sizes)} ]{reshape} }} ]"
    )


def _warm_up(rows: int, inputs: Sequence[Mapping[str, Any]]) -> str:
    entries = [
        f'inputs {{ key: "{tensor["name"]}" value {{ data_type: {_TYPES[tensor["dtype"]]} '
        f"dims: [ {_dims(tensor['shape'][1:])} ] zero_data: true }} }}"
        for tensor in inputs
    ]
    return f'model_warmup [ {{ name: "{rows} rows" batch_size: {rows} {" ".join(entries)} }} ]'


def _dims(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes or [1]))
