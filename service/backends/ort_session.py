"""Networks in this process by onnxruntime, checked against the manifest; how they are called is in `in_process`."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnxruntime as ort

from service.backends.in_process import (
    EXPORT_AGAIN,
    InProcessBackend,
    Lane,
    Network,
    Signature,
    check_signature,
    unloadable,
)
from service.core.cores import usable_cores
from service.core.detector import DETECTOR
from service.core.errors import ManifestMismatch
from service.core.manifest import Manifest, NetworkSpec
from service.core.metrics import Metrics

DETECTOR_FILE = "detector/1/model.onnx"

_PROCESSOR = "CPUExecutionProvider"
# As `export.triton_config` has them: what a graph computes in float32 is not to be rounded to TF32, as the default is,
# and convolutions, planned anew whenever the size or the number of rows changes, are not to be searched for long.
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}}
_ERRORS_ONLY = 3
_SPIN_US = "200"  # of waiting in a loop, before a thread sleeps
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"}


class OrtBackend(InProcessBackend):
    """Every network and the detector by onnxruntime.

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
        sampler, detection = Lane("networks", threads), Lane("detector", threads)
        networks = {
            name: self._load(name, repository / spec.file, spec, sampler)
            for name, spec in manifest.networks.items()
            if only is None or name in only
        }
        if only is None or DETECTOR in only:
            detector = repository / DETECTOR_FILE
            fetch = f"`.venv/bin/python -m export.detector --model-repository {repository}`"
            if not detector.is_file():
                raise ManifestMismatch(
                    f"detector: {detector} does not exist",
                    hint=f"run `make install`, which fetches it, or for a bundle elsewhere {fetch}",
                )
            networks[DETECTOR] = _open(DETECTOR, detector, None, detection, hint=f"fetch it again: {fetch}")
        super().__init__(networks, (sampler, detection), metrics)

    def _load(self, name: str, file: Path, spec: NetworkSpec, lane: Lane) -> Network:
        """One of the manifest's networks."""
        return _open(name, file, spec, lane)


def providers() -> list[str]:
    """What onnxruntime may run networks on here, by its own names, the first that can is taken."""
    available = ort.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", _PROCESSOR) if name in available]


def provider_options() -> list[dict[str, str]]:
    """How each of `providers` computes."""
    return [_OPTIONS.get(name, {}) for name in providers()]


def session_options(threads: int, *, spinning: bool = False) -> ort.SessionOptions:
    """How networks are run here.

    Args:
        threads: Cores of one call.
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
    # Plans take the memory of a whole call in one piece, and tell nothing of the next size of photo. No slower without.
    options.enable_mem_pattern = False
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


@functools.cache
def _share_arena() -> None:
    """Let the sessions of this process take their activations from one arena.

    With one each, as is onnxruntime's default, every session keeps for good what its largest call took, though the
    networks take turns: with two sessions for each of the bundled networks 1.8 GB instead of 0.6.
    """
    processor = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(processor, None)


def _open(name: str, file: Path, spec: NetworkSpec | None, lane: Lane, *, hint: str = EXPORT_AGAIN) -> Network:
    def opened(cores: int, *, spinning: bool = False) -> Any:  # noqa: ANN401 - onnxruntime is untyped
        options = session_options(cores, spinning=spinning)
        try:
            return ort.InferenceSession(str(file), options, providers=providers(), provider_options=provider_options())
        except Exception as error:  # onnxruntime's errors have no root of their own
            raise unloadable(name, spec, file, error, hint=hint) from error

    # A row of the velocity, called step after step, is hundreds of operators. The others are convolutions, which keep
    # all cores busy for long: their threads sleep between them.
    session = opened(lane.threads, spinning=name == "velocity")
    inputs, outputs = (
        [Signature(value.name, _DTYPES.get(value.type, value.type), value.shape) for value in values]
        for values in (session.get_inputs(), session.get_outputs())
    )
    if spec is not None:
        check_signature(name, spec, inputs, outputs)
    return Network(
        name=name,
        session=session,
        narrow=opened(1) if _is_shared_out(spec, lane.threads, session) else None,
        input_dtypes={value.name: value.dtype if value.dtype in _DTYPES.values() else "float32" for value in inputs},
        outputs=tuple(value.name for value in outputs),
        lane=lane,
    )


def _is_shared_out(spec: NetworkSpec | None, threads: int, session: Any) -> bool:  # noqa: ANN401 - as above
    """Whether shares of a batch pay: on a processor alone, and where there is a batch."""
    return spec is not None and spec.max_batch_size > 1 and threads > 1 and session.get_providers() == [_PROCESSOR]
