"""Network calls by onnxruntime in this process: one session per network, checked against the manifest.

    infer -> (lane of threads) -> session per `max_batch_size` rows -> finite float32 outputs

The networks of the sampler take turns in one lane, so that their calls never fight for cores; the detector has the
other, so that a photo need not wait behind the batches of others. A call itself spreads over `threads` cores.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.core.detector import DETECTOR
from service.core.errors import InferenceFailed, ManifestMismatch
from service.core.interfaces import Tensors
from service.core.manifest import Manifest, NetworkSpec, TensorSpec
from service.core.metrics import Metrics

DETECTOR_FILE = "detector/1/model.onnx"

_ERRORS_ONLY = 3
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"}

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class _Network:
    """A session and how it is called.

    Attributes:
        name: As in the manifest.
        session: An `onnxruntime.InferenceSession`; it may be called from several threads.
        input_dtypes: What the inputs are cast to, by name.
        outputs: Names, in the session's order.
        max_batch_size: Most rows of one call, or None for no limit.
    """

    name: str
    session: Any
    input_dtypes: dict[str, str]
    outputs: tuple[str, ...]
    max_batch_size: int | None


class OrtBackend:
    """Implements `service.core.interfaces.InferenceBackend`.

    Args:
        manifest: The bundle's contract; its files' hashes have been checked by `load_manifest`.
        repository: The model repository.
        threads: Cores of one network call; 0 uses all this process may use.
        metrics: Told about every call.
        only: Names of the networks that this process calls, `detector` among them or not; None for all.

    Raises:
        ManifestMismatch: A file is absent or cannot be loaded, or a signature is not the manifest's; the message names
            the field.
    """

    concurrent = False

    def __init__(
        self,
        manifest: Manifest,
        repository: Path,
        threads: int,
        *,
        metrics: Metrics,
        only: Collection[str] | None = None,
    ) -> None:
        threads = threads or len(os.sched_getaffinity(0))
        self._metrics = metrics
        self._networks = {
            name: _load(name, repository / spec.file, spec, threads)
            for name, spec in manifest.networks.items()
            if only is None or name in only
        }
        if only is None or DETECTOR in only:
            detector = repository / DETECTOR_FILE
            if not detector.is_file():
                raise ManifestMismatch(
                    f"detector: {detector} does not exist", hint="run `make install`, which fetches it"
                )
            self._networks[DETECTOR] = _load(DETECTOR, detector, None, threads)
        self._sampler_lane = ThreadPoolExecutor(1, thread_name_prefix="networks")
        self._detector_lane = ThreadPoolExecutor(1, thread_name_prefix="detector")

    async def infer(self, network: str, inputs: Tensors) -> Arrays:
        """Run one network on a batch; the rows of every input are the first axis.

        Returns:
            Every output by name, float32.

        Raises:
            InferenceFailed: There is no such network, the call failed, or an output is not finite.
        """
        found = self._networks.get(network)
        if found is None:
            raise InferenceFailed(f"{network}: there is no such network, or the backend is closed")
        lane = self._detector_lane if network == DETECTOR else self._sampler_lane
        return await asyncio.get_running_loop().run_in_executor(lane, self._run, found, inputs)

    async def ready(self) -> bool:
        """Whether every network can be called."""
        return bool(self._networks)

    async def close(self) -> None:
        """Wait for calls under way, then release threads and sessions."""
        self._networks = {}
        for lane in (self._sampler_lane, self._detector_lane):
            await asyncio.to_thread(lane.shutdown)

    def _run(self, network: _Network, inputs: Tensors) -> Arrays:
        rows = len(next(iter(inputs.values()))) if inputs else 0
        limit = network.max_batch_size or max(rows, 1)
        parts = [
            self._call(network, {name: value[start : start + limit] for name, value in inputs.items()})
            for start in range(0, max(rows, 1), limit)
        ]
        return {
            name: parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])
            for name in network.outputs
        }

    def _call(self, network: _Network, inputs: Tensors) -> Arrays:
        begin_s = time.perf_counter()
        try:
            feeds = {
                name: np.ascontiguousarray(value, network.input_dtypes.get(name)) for name, value in inputs.items()
            }
            values = network.session.run(network.outputs, feeds)
        except Exception as error:  # onnxruntime's errors have no root of their own
            raise InferenceFailed(f"{network.name}: {_first_line(error)}", hint="try again") from error
        seconds = time.perf_counter() - begin_s
        outputs: Arrays = dict(zip(network.outputs, (np.asarray(value, np.float32) for value in values), strict=True))
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise InferenceFailed(f"{network.name}: output {name} is not finite", hint="try again")
        rows = len(next(iter(feeds.values())))
        self._metrics.observe_network(network.name, rows, seconds)
        return outputs


def providers() -> list[str]:
    """What onnxruntime may run networks on here, by its own names, the first that can is taken."""
    available = ort.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def session_options(threads: int, *, one_size: bool) -> ort.SessionOptions:
    """How networks are run here.

    Args:
        threads: Cores of one call.
        one_size: Whether inputs differ in their number of rows alone.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    # Threads that wait for work in a loop burn 2 % of a core at rest and slow down whatever runs beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Plans for one size of photo are of no use to the next; without them a fifth less memory is kept.
    options.enable_mem_pattern = one_size
    return options


def _load(name: str, file: Path, spec: NetworkSpec | None, threads: int) -> _Network:
    options = session_options(threads, one_size=spec is not None)
    try:
        session = ort.InferenceSession(str(file), options, providers=providers())
    except Exception as error:  # as above
        field = f"networks.{name}.file" if spec is not None else name
        raise ManifestMismatch(
            f"{field}: {file} cannot be loaded: {_first_line(error)}", hint="export the bundle again"
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if spec is not None:
        _check(f"networks.{name}.inputs", inputs, spec.inputs)
        _check(f"networks.{name}.outputs", outputs, spec.outputs)
    return _Network(
        name=name,
        session=session,
        input_dtypes={value.name: _DTYPES.get(value.type, "float32") for value in inputs},
        outputs=tuple(value.name for value in outputs),
        max_batch_size=None if spec is None else spec.max_batch_size,
    )


def _check(field: str, found: Sequence[Any], expected: Sequence[TensorSpec]) -> None:
    """Compare a session's tensors with the manifest's; free dimensions may have any name.

    Raises:
        ManifestMismatch: They differ; the message names the first field that does.
    """
    if len(found) != len(expected):
        raise _mismatch(field, [value.name for value in found], [spec.name for spec in expected])
    for index, (value, spec) in enumerate(zip(found, expected, strict=True)):
        dtype = _DTYPES.get(value.type, value.type)
        if value.name != spec.name:
            raise _mismatch(f"{field}[{index}].name", value.name, spec.name)
        if dtype != spec.dtype:
            raise _mismatch(f"{field}[{index}].dtype", dtype, spec.dtype)
        if _sizes(value.shape) != _sizes(spec.shape):
            raise _mismatch(f"{field}[{index}].shape", list(value.shape), list(spec.shape))


def _sizes(shape: Sequence[int | str | None]) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in shape]


def _first_line(error: Exception) -> str:
    """What onnxruntime says; the lines after the first are for its authors."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _mismatch(field: str, found: object, expected: object) -> ManifestMismatch:
    return ManifestMismatch(f"{field}: the file has {found}, the manifest {expected}", hint="export the bundle again")
