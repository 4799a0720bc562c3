"""Networks in this process by OpenVINO, which computes in bfloat16 where the processor does (see `in_process`).

    file -> compiled for one row -> wide: its operators on all cores | narrow: one core a row, rows side by side

A processor with AMX or AVX-512's bfloat16 restores a face in a third of onnxruntime's time so; what that costs in
precision stands in docs/PERFORMANCE.md. Rows are computed one by one, so that a row's result does not hang on the
others of its batch. The detector, which takes every size of photo, stays with onnxruntime.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.backends.in_process import Lane, Network, Signature, check_signature, unloadable
from service.backends.ort_session import OrtBackend
from service.core.interfaces import Arrays
from service.core.manifest import Manifest, NetworkSpec
from service.core.metrics import Metrics
from service.core.settings import Precision

# OpenVINO tells its makers about every import, by a process that it forks. Without this package it takes a stub.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what stands for "not installed"
import openvino as ov  # noqa: E402

_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16"}


def precisions() -> tuple[Precision, ...]:
    """What this processor computes in by itself, the fastest first."""
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return (Precision.BFLOAT16, Precision.FLOAT32) if "BF16" in capabilities else (Precision.FLOAT32,)


class OpenVinoBackend(OrtBackend):
    """The manifest's networks by OpenVINO, the detector by onnxruntime; arguments and errors are those of `OrtBackend`.

    `precision` is one of `precisions`, of products; inputs and outputs are float32 in any.
    """

    def __init__(  # noqa: PLR0913 - what OrtBackend takes, and the precision
        self,
        manifest: Manifest,
        repository: Path,
        threads: int,
        *,
        precision: Precision,
        metrics: Metrics,
        only: Collection[str] | None = None,
    ) -> None:
        self._core, self.precision = ov.Core(), precision
        super().__init__(manifest, repository, threads, metrics=metrics, only=only)

    def _load(self, name: str, file: Path, spec: NetworkSpec, lane: Lane) -> Network:
        try:
            model = self._core.read_model(file)
            inputs, outputs = ([_signature(port) for port in ports] for ports in (model.inputs, model.outputs))
            check_signature(name, spec, inputs, outputs)
            model.reshape({port.any_name: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
            session = self._compiled(model, lane.threads, streams=1)
            shared_out = 1 < lane.threads <= spec.max_batch_size  # a core for every share, or none
            narrow = self._compiled(model, lane.threads, streams=lane.threads) if shared_out else None
        except RuntimeError as error:
            raise unloadable(name, spec, file, _plain(error)) from error
        return Network(
            name=name,
            session=session,
            narrow=narrow,
            input_dtypes={value.name: value.dtype for value in inputs},
            outputs=tuple(value.name for value in outputs),
            lane=lane,
        )

    def _compiled(self, model: ov.Model, threads: int, *, streams: int) -> _RowByRow:
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # the workers of a machine would all be bound to the same cores
        }
        return _RowByRow(self._core.compile_model(model, "CPU", settings))


class _RowByRow:
    """Implements `in_process.Session` by a model that was compiled for one row."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._compiled = compiled
        self._names = {port.any_name for port in compiled.inputs}
        self._idle: deque[ov.InferRequest] = deque()  # one is for one thread at a time

    def run(self, output_names: Sequence[str], feeds: Arrays) -> list[npt.NDArray[np.generic]]:
        """The named outputs for inputs by name.

        Raises:
            ValueError: Inputs are missing or unknown, and OpenVINO would compute with those of the call before; or one
                has other rows than another.
            RuntimeError: A shape is not the model's.
        """
        if feeds.keys() != self._names:
            raise ValueError(f"takes {sorted(self._names)}, not {sorted(feeds)}")
        if len({len(value) for value in feeds.values()}) != 1:
            raise ValueError(f"rows differ: { {name: len(value) for name, value in feeds.items()} }")
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            rows = []
            for row in range(len(next(iter(feeds.values())))):
                request.infer({name: value[row : row + 1] for name, value in feeds.items()})
                rows.append([np.array(request.get_tensor(name).data) for name in output_names])
            return [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        except RuntimeError as error:
            raise _plain(error) from error
        finally:
            self._idle.append(request)


def _plain(error: RuntimeError) -> RuntimeError:
    """What OpenVINO says without where in its source it was found out, which comes first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return RuntimeError(lines[-1] if lines else type(error).__name__)


def _signature(port: Any) -> Signature:  # noqa: ANN401 - OpenVINO's stubs are incomplete
    kind = port.element_type.get_type_name()
    shape = [size.get_length() if size.is_static else None for size in port.partial_shape]
    return Signature(port.any_name, _DTYPES.get(kind, kind), shape)
