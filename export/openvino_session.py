"""A network in OpenVINO, called like an onnxruntime session, for comparison.

    content of an ONNX file -> compiled once for every number of rows -> outputs

The service compiles for one row, and shares rows out (`service.backends.openvino_session`). The extra `openvino`
installs it; without it there are no precisions to compare.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation.bundle import Named

F32Array = npt.NDArray[np.float32]

_HINTS: Mapping[str, str] = {"float32": "f32", "bfloat16": "bf16"}


def _openvino() -> Any:  # noqa: ANN401 - its stubs are incomplete
    """The package, without the one by which it tells its makers about every import."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what stands for "not installed"
    return importlib.import_module("openvino")


def openvino_precisions() -> tuple[str, ...]:
    """What this machine's processor computes in by OpenVINO; nothing where OpenVINO is not installed."""
    try:
        openvino = _openvino()
    except ModuleNotFoundError:
        return ()
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("float32", "bfloat16") if "BF16" in capabilities else ("float32",)


class OpenVinoSession:
    """Implements `latent_pmrf.evaluation.bundle.Session`.

    Args:
        content: An ONNX file.
        precision: One of `openvino_precisions`.
        num_threads: Threads of a call.
    """

    def __init__(self, content: bytes, precision: str, num_threads: int) -> None:
        self._core = _openvino().Core()
        self._content = content
        self._settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
        }
        model = self._read()
        self._inputs, self._outputs = ([_Face(face) for face in faces] for faces in (model.inputs, model.outputs))
        self._requests: dict[int, Any] = {}

    def get_inputs(self) -> Sequence[Named]:
        """The inputs."""
        return self._inputs

    def get_outputs(self) -> Sequence[Named]:
        """The outputs."""
        return self._outputs

    def run(self, output_names: None, feeds: Mapping[str, F32Array]) -> Sequence[F32Array]:  # noqa: ARG002 - protocol
        """Every output for inputs by name; the first call with a number of rows compiles for it."""
        rows = len(next(iter(feeds.values())))
        if rows not in self._requests:
            model = self._read()
            model.reshape({face.any_name: [rows, *face.partial_shape[1:]] for face in model.inputs})
            self._requests[rows] = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        found = self._requests[rows].infer(dict(feeds))
        return [np.array(value) for value in found.values()]

    def _read(self) -> Any:  # noqa: ANN401 - OpenVINO's stubs are incomplete
        return self._core.read_model(self._content, b"")


class _Face:
    """An input or output."""

    def __init__(self, face: Any) -> None:  # noqa: ANN401 - as above
        self.name: str = face.any_name
