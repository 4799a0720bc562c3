"""Network calls by onnxruntime in this process: sessions of each network, checked against the manifest.

    infer -> (lane of threads) -> session per `max_batch_size` rows -> finite float32 outputs
                                   |- a row: one call, every operator spread over `threads` cores
                                   |- rows: shares of them side by side, where they suffice on one core each

The networks of the sampler take turns in one lane, so that their calls never fight for cores; the detector has the
other, so that a photo need not wait behind the batches of others. Shares need not wait for each other at every
operator, as the threads of one operator do. A row's result is the same to the bit either way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.core.cores import usable_cores
from service.core.detector import DETECTOR
from service.core.errors import InferenceFailed, ManifestMismatch
from service.core.interfaces import Tensors
from service.core.manifest import Manifest, NetworkSpec, TensorSpec
from service.core.metrics import Metrics

DETECTOR_FILE = "detector/1/model.onnx"

_PROCESSOR = "CPUExecutionProvider"
_ERRORS_ONLY = 3
_SPIN_US = "200"  # of waiting in a loop, before a thread sleeps
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"}

Arrays = dict[str, npt.NDArray[np.generic]]


class _Lane:
    """Threads of calls that take turns, and of their shares.

    Args:
        name: Of the threads.
        threads: Cores of a call.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.threads = threads
        self.calls = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.shares = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-share")

    def shutdown(self) -> None:
        """Wait for calls under way, then end the threads."""
        self.calls.shutdown()
        self.shares.shutdown()


@dataclass(frozen=True, slots=True)
class _Network:
    """A session and how it is called.

    Attributes:
        name: As in the manifest.
        session: An `onnxruntime.InferenceSession` whose operators spread over all cores, for single rows above all; it
            may be called from several threads, as all sessions.
        narrow: The same on one core, for shares of a batch; None where nothing is shared out.
        input_dtypes: What the inputs are cast to, by name.
        outputs: Names, in the session's order.
        max_batch_size: Most rows of one call, or None for no limit.
        lane: Where it is called.
    """

    name: str
    session: Any
    narrow: Any
    input_dtypes: dict[str, str]
    outputs: tuple[str, ...]
    max_batch_size: int | None
    lane: _Lane

    def run(self, session: Any, feeds: Arrays) -> Arrays:  # noqa: ANN401 - onnxruntime is untyped
        """Every output by name, float32."""
        values = session.run(self.outputs, feeds)
        return dict(zip(self.outputs, (np.asarray(value, np.float32) for value in values), strict=True))


class OrtBackend:
    """Implements `service.core.interfaces.InferenceBackend`.

    Args:
        manifest: The bundle's contract; its files' hashes have been checked by `load_manifest`.
        repository: The model repository.
        threads: Cores of a batch, and of a call of the detector; 0 uses all this process may use.
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
        threads = threads or usable_cores()
        self._metrics = metrics
        self._sampler_lane, self._detector_lane = _Lane("networks", threads), _Lane("detector", threads)
        self._networks = {
            name: _load(name, repository / spec.file, spec, self._sampler_lane)
            for name, spec in manifest.networks.items()
            if only is None or name in only
        }
        if only is None or DETECTOR in only:
            detector = repository / DETECTOR_FILE
            if not detector.is_file():
                raise ManifestMismatch(
                    f"detector: {detector} does not exist", hint="run `make install`, which fetches it"
                )
            self._networks[DETECTOR] = _load(DETECTOR, detector, None, self._detector_lane)

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
        return await asyncio.get_running_loop().run_in_executor(found.lane.calls, self._run, found, inputs)

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
        starts = range(0, max(rows, 1), limit)
        return _joined([self._call(network, _cut(inputs, start, start + limit)) for start in starts])

    def _call(self, network: _Network, inputs: Tensors) -> Arrays:
        begin_s = time.perf_counter()
        try:
            feeds = {
                name: np.ascontiguousarray(value, network.input_dtypes.get(name)) for name, value in inputs.items()
            }
            rows = len(next(iter(feeds.values())))
            outputs = self._spread(network, feeds, rows)
        except Exception as error:  # onnxruntime's errors have no root of their own
            raise InferenceFailed(f"{network.name}: {_first_line(error)}", hint="try again") from error
        seconds = time.perf_counter() - begin_s
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise InferenceFailed(f"{network.name}: output {name} is not finite", hint="try again")
        self._metrics.observe_network(network.name, rows, seconds)
        return outputs

    def _spread(self, network: _Network, feeds: Arrays, rows: int) -> Arrays:
        """Run a batch on all cores: in shares of whole rows side by side, or operator by operator."""
        count = min(rows, network.lane.threads)
        if network.narrow is None or count == 1:
            return network.run(network.session, feeds)
        # With fewer rows than cores the shares have the operators' threads in common.
        session = network.narrow if count == network.lane.threads else network.session
        bounds = [rows * index // count for index in range(count + 1)]
        shares = [
            network.lane.shares.submit(network.run, session, _cut(feeds, start, stop))
            for start, stop in pairwise(bounds)
        ]
        wait(shares)
        return _joined([share.result() for share in shares])


def providers() -> list[str]:
    """What onnxruntime may run networks on here, by its own names, the first that can is taken."""
    available = ort.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", _PROCESSOR) if name in available]


def session_options(threads: int, *, one_size: bool, spinning: bool = False) -> ort.SessionOptions:
    """How networks are run here.

    Args:
        threads: Cores of one call.
        one_size: Whether inputs differ in their number of rows alone.
        spinning: Whether threads wait for the next operator in a loop. It burns 2 % of a core at rest, unless it ends
            with the call, and slows down whatever runs beside it; what takes hundreds of small operators gains more.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if spinning:
        options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
        options.add_session_config_entry("session.force_spinning_stop", "1")  # when the call ends
    # Plans for one size of photo are of no use to the next; without them a fifth less memory is kept.
    options.enable_mem_pattern = one_size
    return options


def _load(name: str, file: Path, spec: NetworkSpec | None, lane: _Lane) -> _Network:
    def opened(cores: int, *, spinning: bool = False) -> Any:  # noqa: ANN401 - onnxruntime is untyped
        options = session_options(cores, one_size=spec is not None, spinning=spinning)
        try:
            return ort.InferenceSession(str(file), options, providers=providers())
        except Exception as error:  # as above
            field = f"networks.{name}.file" if spec is not None else name
            raise ManifestMismatch(
                f"{field}: {file} cannot be loaded: {_first_line(error)}", hint="export the bundle again"
            ) from error

    session = opened(lane.threads, spinning=_is_stepped(spec))
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if spec is not None:
        _check(f"networks.{name}.inputs", inputs, spec.inputs)
        _check(f"networks.{name}.outputs", outputs, spec.outputs)
    return _Network(
        name=name,
        session=session,
        narrow=opened(1) if _is_shared_out(spec, lane.threads, session) else None,
        input_dtypes={value.name: _DTYPES.get(value.type, "float32") for value in inputs},
        outputs=tuple(value.name for value in outputs),
        max_batch_size=None if spec is None else spec.max_batch_size,
        lane=lane,
    )


def _is_stepped(spec: NetworkSpec | None) -> bool:
    """Whether it is the velocity, called step after step at a time `t`: a row of it is hundreds of operators.

    Convolutions, which the others are made of, keep all cores busy for long: their threads sleep between them.
    """
    return spec is not None and any(tensor.name == "t" for tensor in spec.inputs)


def _is_shared_out(spec: NetworkSpec | None, threads: int, session: Any) -> bool:  # noqa: ANN401 - as above
    """Whether shares of a batch pay: on a processor alone, and where there is a batch."""
    return spec is not None and spec.max_batch_size > 1 and threads > 1 and session.get_providers() == [_PROCESSOR]


def _cut(arrays: Tensors, start: int, stop: int) -> Arrays:
    return {name: value[start:stop] for name, value in arrays.items()}


def _joined(parts: Sequence[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
