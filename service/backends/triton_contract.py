"""What a Triton server must have: every network of the manifest and the detector, as they are called here.

manifest -> TritonNetwork ┐
server's configuration   ─┴-> usable, or ManifestMismatch with the name of the field
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc.model_config_pb2 import DataType

from service.core import detector
from service.core.errors import ManifestMismatch
from service.core.manifest import Manifest, TensorSpec

SHA256_PARAMETER = "latent_pmrf.sha256"

_DTYPES = {"TYPE_FP32": "float32", "TYPE_FP16": "float16", "TYPE_BF16": "bfloat16"}
_HINT = "write its configurations with `python -m export.triton_config`, and serve the same bundle everywhere"


@dataclass(frozen=True, slots=True)
class TritonNetwork:
    """One network as a server must have it.

    Attributes:
        name: Of the model on the server.
        field: Where the manifest speaks of it.
        inputs: Its inputs.
        outputs: Its outputs.
        max_batch_size: Rows of the largest call.
        sha256: Hash of its file, or None where nobody knows it.
    """

    name: str
    field: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    sha256: str | None


def networks_of(manifest: Manifest, only: Collection[str] | None) -> dict[str, TritonNetwork]:
    """The networks that a process calls, by name: those of `only`, the detector among them or not; None for all."""
    networks = {
        name: TritonNetwork(name, f"networks.{name}", spec.inputs, spec.outputs, spec.max_batch_size, spec.sha256)
        for name, spec in manifest.networks.items()
    }
    networks[detector.DETECTOR] = TritonNetwork(
        detector.DETECTOR, detector.DETECTOR, detector.INPUTS, detector.OUTPUTS, detector.MAX_ROWS, None
    )
    return {name: network for name, network in networks.items() if only is None or name in only}


def wire_dims(spec: TensorSpec) -> list[int]:
    """Sizes of a tensor on the wire without its batch, -1 where they are free: Triton wants at least one."""
    return [size if isinstance(size, int) else -1 for size in spec.shape[1:]] or [1]


def check_config(network: TritonNetwork, config: Any) -> None:  # noqa: ANN401 - generated code has no types
    """Compare a server's `ModelConfig` with what the manifest says.

    Raises:
        ManifestMismatch: They differ; the message names the first field that does.
    """
    _check_tensors(f"{network.field}.inputs", config.input, network.inputs)
    _check_tensors(f"{network.field}.outputs", config.output, network.outputs)
    if config.max_batch_size != network.max_batch_size:
        raise _mismatch(f"{network.field}.max_batch_size", config.max_batch_size, network.max_batch_size)
    if network.sha256 is not None:
        served = config.parameters[SHA256_PARAMETER].string_value if SHA256_PARAMETER in config.parameters else None
        if served != network.sha256:
            raise _mismatch(f"{network.field}.sha256", served, network.sha256)


def missing(network: TritonNetwork) -> ManifestMismatch:
    """The server does not have a network at all."""
    return ManifestMismatch(f"{network.field}: the server has no model {network.name}", hint=_HINT)


def _check_tensors(field: str, found: Sequence[Any], expected: Sequence[TensorSpec]) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    if set(by_name) != {spec.name for spec in expected}:
        raise _mismatch(field, sorted(by_name), sorted(spec.name for spec in expected))
    for index, spec in enumerate(expected):
        tensor = by_name[spec.name]
        dtype = DataType.Name(tensor.data_type)
        if _DTYPES.get(dtype) != spec.dtype:
            raise _mismatch(f"{field}[{index}].dtype", _DTYPES.get(dtype, dtype), spec.dtype)
        if list(tensor.dims) != wire_dims(spec):
            raise _mismatch(f"{field}[{index}].shape", ["batch", *tensor.dims], list(spec.shape))


def _mismatch(field: str, found: object, expected: object) -> ManifestMismatch:
    return ManifestMismatch(f"{field}: the server has {found}, the manifest {expected}", hint=_HINT)
