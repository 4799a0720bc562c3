"""A bundle to TensorRT engines, for Triton's TensorRT backend on the kind of GPU that builds them.

    bundle -> half-precision graphs (`export.half`) -> objections (`export.tensorrt_operators`)
           -> engine per network: strongly typed, one optimisation profile, timing cache
           -> staged bundle -> gate, run by the engines -> target repository

The networks are strongly typed: the types of the graph are obeyed, so that normalisations, softmax and logits stay
float32 and what the gate saw is what runs. It needs an NVIDIA GPU (docs/GPU.md); planning needs none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from export.engine import BuildOptions, EngineError, EngineSession, Shapes, build_engine, gpu_name, require_tensorrt
from export.half import Precision, to_half
from export.parity import told_steps
from export.precision import FiniteRestorer, PrecisionGate, check_precision
from export.telling import Say
from export.tensorrt_operators import objections
from export.variants import Original, publish, staged

PLAN = "model.plan"


def plan_profile(network: Mapping[str, Any]) -> dict[str, Shapes]:
    """The optimisation profile of a network, by input.

    From one row to the largest batch, tuned for the middle of the allowed batch sizes, or for half the largest where
    any is allowed: the sampler's calls are seldom full.

    Args:
        network: Its entry in the manifest.

    Raises:
        ValueError: Another dimension than the first is free.
    """
    most = int(network["max_batch_size"])
    sizes: Sequence[int] = network.get("batch_sizes") or (1, max(1, most // 2), most)
    usual = sizes[len(sizes) // 2]
    profile = {}
    for tensor in network["inputs"]:
        free = [size for size in tensor["shape"][1:] if not isinstance(size, int)]
        if free:
            raise ValueError(f"input {tensor['name']}: {', '.join(free)} must be fixed, only the batch may be free")
        rest = tuple(tensor["shape"][1:])
        profile[tensor["name"]] = Shapes((1, *rest), (usual, *rest), (most, *rest))
    return profile


def plan_graphs(original: Original, precision: Precision) -> dict[str, bytes]:
    """The half-precision graphs of a bundle, after a look at their operators; needs no TensorRT.

    Raises:
        EngineError: TensorRT would refuse one of them.
    """
    graphs = {name: to_half(content, precision) for name, content in original.files.items()}
    against = [f"{name}: {reason}" for name, content in graphs.items() for reason in objections(content)]
    if against:
        raise EngineError(f"TensorRT would refuse: {'; '.join(against[:10])}")
    return graphs


def write_engines(
    original: Original, target: Path, options: BuildOptions, gate: PrecisionGate, say: Say
) -> dict[str, Any]:
    """Build the engines of a bundle and write them, their manifest and Triton's files.

    Args:
        original: The float32 bundle.
        target: Repository to write; must not be the original's.
        options: How engines are built.
        gate: What they must hold, run on this machine's GPU.
        say: Receives a line of progress now and then.

    Returns:
        The new manifest.

    Raises:
        ParityError: The gate failed; nothing was written.
        EngineError: TensorRT is not there or refuses; nothing was written.
    """
    graphs = plan_graphs(original, options.precision)
    version = require_tensorrt()
    plans = {}
    for name, content in graphs.items():
        started = time.monotonic()
        profile = plan_profile(original.manifest["networks"][name])
        plans[name] = build_engine(content, profile, options)
        rows = next(iter(profile.values()))
        say(
            f"{name}: engine of {len(plans[name]) / 1e6:.1f} MB for {rows.least[0]}, {rows.usual[0]} and "
            f"{rows.most[0]} rows, {time.monotonic() - started:.0f} s"
        )
    record: dict[str, Any] = {
        "products": options.precision,
        "runtime": f"tensorrt {version}",
        "gpu": gpu_name(),
        "version_compatible": options.version_compatible,
        "hardware_compatible": options.hardware_compatible,
        "num_steps": list(original.compared_steps),
        "ran_on_gpu": True,
    }
    with staged(original, target, plans, PLAN, record) as staging, ExitStack() as engines:
        bundle = FiniteRestorer(staging, open_session=lambda plan: engines.enter_context(EngineSession(plan)))
        least_db = _gated(original, bundle, gate)
        record["least_psnr_db"] = {"tensorrt": round(least_db, 1)}
        steps = told_steps(original.compared_steps)
        say(f"engines, {steps}: {least_db:.1f} dB beside PyTorch, finite at extreme inputs")
        return publish(staging, target, record, original, say)


def _gated(original: Original, bundle: FiniteRestorer, gate: PrecisionGate) -> float:
    from polygraphy.exception import PolygraphyException

    try:
        return check_precision(original.trained.restorer, bundle, original.compared_steps, gate)
    except PolygraphyException as error:
        raise EngineError(f"an engine could not be run: {error}") from error
