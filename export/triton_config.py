"""Triton's configurations of every network, from the manifest; the detector's from what `export.detector` writes.

    manifest.json -> NETWORK/config.pbtxt        on the CPU, or TensorRT where the file is an engine
                     NETWORK/configs/gpu.pbtxt   taken by `tritonserver --model-config-name=gpu`

The service calls the networks with the batches of its own sampler; Triton's batcher joins the calls of several workers.
A configuration also carries the hash of the file it was written for, so that the service can tell at its start whether
a server has the bundle it expects.

Runs without torch: `python -m export.triton_config --model-repository DIR` writes the files of an existing bundle.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from export.detector import SIGNATURE

DETECTOR = "detector"
#: Parameter of a configuration; `service.backends.triton_contract` reads it.
SHA256_PARAMETER = "latent_pmrf.sha256"

# Parameter of Triton's onnxruntime backend. Its README now prefers an `execution_accelerators` entry, but the backend
# overwrites that by its default wherever it finds parameters without this one. A convolution on cuDNN 9 keeps the plan
# of its last size only, of which the number of rows is a part: plans are made again whenever that changes, and by the
# default, EXHAUSTIVE, that takes longer. So more sizes in the warm-up would leave no more plans.
_CONVOLUTIONS = "cudnn_conv_algo_search"
_BY_HEURISTICS = "1"
# By onnxruntime's default float32 products are of TF32 on Ampere and later, with ten bits of mantissa like float16: not
# what the manifest promises, and not what the gate of half precision saw. Engines are built without TF32, too.
_CUDA = [("name", "cuda"), ("parameters", [("key", "use_tf32"), ("value", "0")])]
_IN_FLOAT32 = "optimization", [("execution_accelerators", [("gpu_execution_accelerator", _CUDA)])]

_ENGINE_SUFFIX = ".plan"
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16"}
_MAX_QUEUE_DELAY_US = 500
# A request's own deadline counts only where there is a later one here. Longer than any call may wait.
_QUEUE_TIMEOUT_US = 600_000_000
# More calls than any sensible number of workers makes at once: what is beyond is refused, and goes to another server.
_MAX_QUEUED_CALLS = 512
# The detector sees few faces at once, all of this size, and whole photos one by one (`service.stages.detect`).
_DETECTOR_ROWS = 16
_DETECTOR_VIEW_PX = 128


class Profile(StrEnum):
    """What runs a network."""

    CPU = "cpu"
    GPU = "gpu"
    TENSORRT = "tensorrt"


class _Word(str):
    """A value that is written without quotes."""

    __slots__ = ()


_Message = Sequence[tuple[str, Any]]


def config_pbtxt(name: str, network: Mapping[str, Any], profile: Profile = Profile.CPU) -> str:
    """The configuration of one network, in protobuf text format.

    Args:
        name: Folder of the network in the model repository.
        network: Its entry in the manifest. Sizes that are no numbers are free; the first one is the batch.
        profile: What runs it.
    """
    file = Path(network["file"])  # NETWORK/VERSION/FILE; a later version beside it is not what the manifest speaks of
    sizes = network.get("batch_sizes")
    warm_rows = sizes or sorted({1, network["max_batch_size"]})
    if profile is Profile.CPU:  # where nothing is tuned to a size, and large batches would only delay the start
        warm_rows = warm_rows[:1]
    message: list[tuple[str, Any]] = [
        ("name", name),
        ("backend", "tensorrt" if profile is Profile.TENSORRT else "onnxruntime"),
        ("default_model_filename", file.name),
        ("version_policy", [("specific", [("versions", [int(file.parent.name)])])]),
        ("max_batch_size", network["max_batch_size"]),
        *(("input", _tensor(tensor)) for tensor in network["inputs"]),
        *(("output", _tensor(tensor)) for tensor in network["outputs"]),
        ("instance_group", [("count", 1), ("kind", _Word("KIND_CPU" if profile is Profile.CPU else "KIND_GPU"))]),
        ("dynamic_batching", _batching(sizes)),
        *(("model_warmup", _warm_up(rows, network["inputs"])) for rows in warm_rows),
    ]
    if profile is Profile.GPU:
        message += [_IN_FLOAT32, _parameter(_CONVOLUTIONS, _BY_HEURISTICS)]
    if network.get("sha256"):
        message.append(_parameter(SHA256_PARAMETER, network["sha256"]))
    return "# Written by `export.triton_config` from manifest.json.\n" + "\n".join(_lines(message)) + "\n"


def detector_network() -> dict[str, Any]:
    """The detector's entry, as the manifest has them of the other networks; it has no hash, for its file is fetched."""
    return {
        "file": f"{DETECTOR}/1/model.onnx",
        "inputs": [_float32(SIGNATURE.input_name, SIGNATURE.input_shape)],
        "outputs": [_float32(name, shape) for name, shape in SIGNATURE.output_shapes.items()],
        "max_batch_size": _DETECTOR_ROWS,
    }


def configurations(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Every file of a bundle's configurations: path in the model repository, and its text.

    The detector of a bundle of engines stays an ONNX file, on the GPU: an engine bounds height and width one by one,
    the detector's tiles have a bounded area.
    """
    networks = dict(manifest["networks"])
    has_engines = any(entry["file"].endswith(_ENGINE_SUFFIX) for entry in networks.values())
    files = {}
    for name, entry in {**networks, DETECTOR: detector_network()}.items():
        if entry["file"].endswith(_ENGINE_SUFFIX):
            files[f"{name}/config.pbtxt"] = config_pbtxt(name, entry, Profile.TENSORRT)
        elif has_engines:
            files[f"{name}/config.pbtxt"] = config_pbtxt(name, entry, Profile.GPU)
        else:
            files[f"{name}/config.pbtxt"] = config_pbtxt(name, entry, Profile.CPU)
            files[f"{name}/configs/{Profile.GPU}.pbtxt"] = config_pbtxt(name, entry, Profile.GPU)
    return files


def write_configurations(repository: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Write every file of `configurations`; returns their paths."""
    written = []
    for name, text in configurations(manifest).items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the configurations of an existing bundle; returns the exit status."""
    parser = argparse.ArgumentParser("python -m export.triton_config", description="Writes Triton's configurations.")
    parser.add_argument("--model-repository", type=Path, required=True, metavar="DIR", help="has manifest.json")
    repository: Path = parser.parse_args(arguments).model_repository
    try:
        manifest = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))
        written = write_configurations(repository, manifest)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"error: {repository} has no usable manifest: {error}\n")
        return 1
    sys.stdout.writelines(f"{path}\n" for path in written)
    return 0


def _tensor(tensor: Mapping[str, Any]) -> _Message:
    """Triton counts no batch dimension and needs at least one other: a bare row of times is sent as (B, 1)."""
    sizes = tensor["shape"][1:]
    described: list[tuple[str, Any]] = [
        ("name", tensor["name"]),
        ("data_type", _Word(_TYPES[tensor["dtype"]])),
        ("dims", [size if isinstance(size, int) else -1 for size in sizes] or [1]),
    ]
    return described if sizes else [*described, ("reshape", [("shape", [])])]


def _batching(sizes: Sequence[int] | None) -> _Message:
    """Triton joins calls of one shape only: the detector's views meet, its tiles of odd sizes do not."""
    preferred = [("preferred_batch_size", list(sizes))] if sizes else []
    policy = [
        ("timeout_action", _Word("REJECT")),
        ("default_timeout_microseconds", _QUEUE_TIMEOUT_US),
        ("allow_timeout_override", _Word("true")),
        ("max_queue_size", _MAX_QUEUED_CALLS),
    ]
    return [*preferred, ("max_queue_delay_microseconds", _MAX_QUEUE_DELAY_US), ("default_queue_policy", policy)]


def _warm_up(rows: int, inputs: Sequence[Mapping[str, Any]]) -> _Message:
    samples = []
    for tensor in inputs:
        dims = [size if isinstance(size, int) else _DETECTOR_VIEW_PX for size in tensor["shape"][1:]] or [1]
        value = [("data_type", _Word(_TYPES[tensor["dtype"]])), ("dims", dims), ("zero_data", _Word("true"))]
        samples.append(("inputs", [("key", tensor["name"]), ("value", value)]))
    return [("name", f"batch of {rows}"), ("batch_size", rows), *samples]


def _parameter(key: str, value: str) -> tuple[str, _Message]:
    return "parameters", [("key", key), ("value", [("string_value", value)])]


def _float32(name: str, shape: Sequence[int | str]) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": list(shape)}


def _lines(message: _Message, indent: str = "") -> list[str]:
    """Protobuf's text format, one field a line; a list of pairs is a message, any other list is one of numbers."""
    lines = []
    for name, value in message:
        if isinstance(value, list) and value and isinstance(value[0], tuple):
            lines += [f"{indent}{name} {{", *_lines(value, indent + "  "), f"{indent}}}"]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}: [{', '.join(map(str, value))}]")
        elif isinstance(value, str) and not isinstance(value, _Word):
            lines.append(f"{indent}{name}: {json.dumps(value)}")
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
