"""One TensorRT engine: built from a graph, and run as an onnxruntime session is run.

    half-precision graph, shapes of its inputs -> engine for this machine's GPU -> outputs

NVIDIA's Polygraphy calls TensorRT's Python API. Both are imported when they are needed, for TensorRT exists on machines
with an NVIDIA GPU only, in the version of the server that loads the engines.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.half import Precision

F32Array = npt.NDArray[np.float32]

_GIB = 1 << 30


class EngineError(ValueError):
    """No engine can be built; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes of one input in an optimisation profile, with the batch dimension.

    Attributes:
        least: The smallest that the engine takes.
        usual: The one it is tuned for.
        most: The largest.
    """

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How engines are built.

    Attributes:
        precision: Of the products.
        workspace_bytes: Most GPU memory for temporary results while an engine is tuned and run.
        timing_cache: File with measurements of earlier builds on the same kind of GPU, read and extended.
        version_compatible: The engine also runs in later TensorRT releases of the same major version, slower; Triton
            must then be started with `--backend-config=tensorrt,version-compatible=true`.
        hardware_compatible: The engine also runs on other GPUs from Ampere on, slower.
        level: Time spent on tuning, 0 to 5; None is TensorRT's default, 3.
    """

    precision: Precision = "float16"
    workspace_bytes: int = 4 * _GIB
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    level: int | None = None

    def __post_init__(self) -> None:
        """Refuse what TensorRT would refuse later."""
        if self.workspace_bytes < 1:
            raise ValueError(f"workspace must be at least one byte, not {self.workspace_bytes}")
        if self.level is not None and not 0 <= self.level <= 5:
            raise ValueError(f"level must be 0 to 5, not {self.level}")


def require_tensorrt() -> str:
    """The version of TensorRT.

    Raises:
        EngineError: It is not installed, or too old for strongly typed networks.
    """
    missing = [name for name in ("tensorrt", "polygraphy") if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(
            f"{' and '.join(missing)} not installed: run docker/export.sh on a machine with an NVIDIA GPU, which "
            "builds the engines inside NVIDIA's Triton container, with the TensorRT that will load them (docs/GPU.md)"
        )
    version: str = importlib.import_module("tensorrt").__version__
    if int(version.partition(".")[0]) < 10:
        raise EngineError(f"TensorRT {version} is too old: 10 or later is needed")
    return version


def build_engine(content: bytes, profile: Mapping[str, Shapes], options: BuildOptions) -> bytes:
    """Build one engine for the GPU of this machine.

    Args:
        content: A half-precision graph.
        profile: Shapes by input.
        options: How.

    Returns:
        The serialised engine.

    Raises:
        EngineError: TensorRT refuses the graph or finds no kernels.
    """
    from polygraphy.backend import trt
    from polygraphy.exception import PolygraphyException

    tensorrt = importlib.import_module("tensorrt")
    if options.timing_cache is not None:
        options.timing_cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        network = trt.NetworkFromOnnxBytes(content, strongly_typed=True)
        config = trt.CreateConfig(
            **builder_settings(profile, options),
            memory_pool_limits={tensorrt.MemoryPoolType.WORKSPACE: options.workspace_bytes},
            hardware_compatibility_level=(
                tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS if options.hardware_compatible else None
            ),
        )
        cache = None if options.timing_cache is None else str(options.timing_cache)
        return bytes(trt.EngineBytesFromNetwork(network, config, save_timing_cache=cache)())
    except PolygraphyException as error:
        raise EngineError(f"TensorRT built no engine: {error}") from error


def builder_settings(profile: Mapping[str, Shapes], options: BuildOptions) -> dict[str, Any]:
    """The arguments of Polygraphy's `CreateConfig` that need no TensorRT to be said.

    A strongly typed network takes no precision flags: there are none here.
    """
    from polygraphy.backend import trt

    described = trt.Profile()
    for name, shapes in profile.items():
        described.add(name, min=shapes.least, opt=shapes.usual, max=shapes.most)
    cache = options.timing_cache
    return {
        "profiles": [described],
        "load_timing_cache": str(cache) if cache is not None and cache.exists() else None,
        "version_compatible": options.version_compatible,
        "builder_optimization_level": options.level,
    }


def gpu_name() -> str:
    """Name of this machine's GPU by the driver's own tool, `unknown` without it."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603 - no shell
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.partition("\n")[0].strip()


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of an engine.

    Attributes:
        name: Its name.
    """

    name: str


class EngineSession:
    """An engine on this machine's GPU, called as an onnxruntime session is; to be used in a `with` statement."""

    def __init__(self, plan: bytes) -> None:
        from polygraphy.backend import trt

        self._runner = trt.TrtRunner(trt.EngineFromBytes(plan))

    def __enter__(self) -> EngineSession:
        self._runner.activate()
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.deactivate()

    def get_inputs(self) -> list[Tensor]:
        """The inputs."""
        return self._tensors("INPUT")

    def get_outputs(self) -> list[Tensor]:
        """The outputs."""
        return self._tensors("OUTPUT")

    def run(self, output_names: None, feeds: Mapping[str, F32Array]) -> list[F32Array]:  # noqa: ARG002 - onnxruntime's signature
        """Every output for inputs by name; the arrays are the caller's, not the engine's buffers."""
        contiguous = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in feeds.items()}
        outputs = self._runner.infer(contiguous)
        return [np.array(outputs[tensor.name], dtype=np.float32) for tensor in self.get_outputs()]

    def _tensors(self, mode: str) -> list[Tensor]:
        engine = self._runner.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [Tensor(name) for name in names if engine.get_tensor_mode(name).name == mode]
