"""The gate of the export: what onnxruntime computes must be what PyTorch computes.

Every network is run on drawn inputs at batch 1 and 3 and on the ends of its ranges, and the whole pipeline is run with
the same noise. The error is the largest absolute difference over the root mean square of the reference output, which is
stricter than over its largest value: that of all drawn inputs together, or of the input at hand where it is larger.
Single inputs may have outputs that are almost zero, such as the velocity at t = 0, which says where a posterior mean
lies on average: nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from export.networks import GraphSpec, TensorFace
from latent_pmrf.evaluation.bundle import BundleRestorer, onnxruntime_session, source_noise
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.preconditioning import Preconditioning
from latent_pmrf.restorer import Restored, Restorer

F32Array = npt.NDArray[np.float32]

BATCH_SIZES = (1, 3)
PIPELINE_SEEDS = (1, 2)
"""Of the source noise of the pipeline's comparison."""

_SEED = 20261124
_FEW_STEPS = 5


class ParityError(Exception):
    """The exported graphs do not compute what the networks compute; the message says where and by how much."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a bundle must hold to be written.

    Attributes:
        relative_error: Largest error of a network.
        levels: Largest difference of a restored pixel, in 8-bit levels.
        max_bytes: Largest size of the network files together.
    """

    relative_error: float = 1e-4
    levels: float = 0.25
    max_bytes: int = 48_000_000


@dataclass(frozen=True, slots=True)
class Parity:
    """What the gate measured.

    Attributes:
        relative_error: Worst error of each network.
        levels: Largest difference of a restored pixel, in 8-bit levels.
        num_steps: Euler steps of the pipelines that were compared.
        rounding_levels: Root mean square change of a restored pixel by the rounding of the weights, in 8-bit levels:
            no error of the export, but what the smaller file costs.
    """

    relative_error: dict[str, float]
    levels: float
    num_steps: tuple[int, ...]
    rounding_levels: float


def served_options(num_threads: int, *, spinning: bool = False) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    """The session options of `service.backends.ort_session`, which a contract test compares."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if spinning:
        options.add_session_config_entry("session.intra_op.spin_duration_us", "200")
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_mem_pattern = False
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


@functools.cache
def _share_arena() -> None:
    """One arena for the sessions of this process, as in the service."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    processor = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(processor, None)


def check_network(spec: GraphSpec, content: bytes, statistics: LatentStatistics, tolerance: float) -> float:
    """Compare one exported graph with its network.

    Returns:
        The worst error.

    Raises:
        ParityError: An output is not finite, or an error is above the tolerance.
    """
    session = onnxruntime_session(content)
    names = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
    if names != ([face.name for face in spec.inputs], [spec.output.name]):
        raise ParityError(f"{spec.name}: the graph has inputs and outputs {names}")
    cases = list(_cases(spec, statistics))
    with torch.inference_mode():
        references = [spec.module(*case.tensors).numpy() for case in cases]
    squares = [np.mean(np.square(reference, dtype=np.float64)) for reference in references]
    drawn = [(len(case.tensors[0]), square) for case, square in zip(cases, squares, strict=True) if case.drawn]
    typical = np.average([square for _, square in drawn], weights=[rows for rows, _ in drawn])
    worst = 0.0
    for case, reference, square in zip(cases, references, squares, strict=True):
        exported = session.run(None, feeds_of(spec, case.tensors))[0]
        if exported.shape != reference.shape or not (np.isfinite(exported).all() and np.isfinite(reference).all()):
            raise ParityError(f"{spec.name}, {case.name}: shapes {exported.shape}, {reference.shape}, or not finite")
        difference = float(np.abs(exported - reference).max())
        error = difference / float(np.sqrt(max(square, typical))) if difference else 0.0
        if error > tolerance:
            raise ParityError(f"{spec.name}, {case.name}: relative error {error:.2e} is above {tolerance:.0e}")
        worst = max(worst, error)
    return worst


def compared_steps(default: int, most: int) -> tuple[int, ...]:
    """Numbers of Euler steps to compare: the default, and a few where that is less: one step sees t = 0 alone."""
    return tuple(sorted({default, max(default, min(_FEW_STEPS, most))}))


def told_steps(num_steps: Sequence[int]) -> str:
    """How a line of progress names them."""
    return f"{' and '.join(map(str, num_steps))} steps"


def check_pipeline(restorer: Restorer, repository: Path, num_steps: Sequence[int], tolerance_levels: float) -> float:
    """Compare an exported bundle with the reference pipeline, with the same noise.

    Returns:
        Largest difference of a pixel of the posterior mean or of a sample, in 8-bit levels.

    Raises:
        ParityError: It is above the tolerance.
    """
    pairs = compared_pictures(restorer, BundleRestorer(repository, num_threads=1), num_steps)
    # NumPy's maximum, for Python's passes over a NaN that does not come first.
    levels = float(np.max([np.abs(expected - found).max() for expected, found in pairs])) * 255
    if not levels <= tolerance_levels:
        raise ParityError(f"pipeline: a pixel differs by {levels:.3g} levels of 8 bits, more than {tolerance_levels:g}")
    return levels


def compared_pictures(
    restorer: Restorer, bundle: BundleRestorer, num_steps: Sequence[int]
) -> list[tuple[F32Array, F32Array]]:
    """What PyTorch and a bundle make of the drawn images, with the same noise: posterior means, and samples.

    Args:
        restorer: The reference.
        bundle: The networks that are held against it.
        num_steps: Numbers of Euler steps, of each a sample.

    Returns:
        Pairs of (B, S, S, 3) in [0, 1], the reference's first.
    """
    side = bundle.spec.image_size_px
    means = bundle.estimate(pipeline_images(restorer, side).permute(0, 2, 3, 1).numpy())
    source = bundle.source(means, PIPELINE_SEEDS)
    references = [reference_sample(restorer, side, steps) for steps in num_steps]
    samples = [bundle.transport(source, steps) for steps in num_steps]
    expected = [references[0].posterior_mean, *(reference.sample for reference in references)]
    return [
        (ours.permute(0, 2, 3, 1).numpy(), theirs) for ours, theirs in zip(expected, [means, *samples], strict=True)
    ]


def reference_sample(restorer: Restorer, image_size_px: int, num_steps: int) -> Restored:
    """What PyTorch makes of the drawn images and fixed noise of the pipeline's comparison."""
    shape = restorer.state_shape(image_size_px)
    noise = torch.from_numpy(np.stack([source_noise(shape, seed) for seed in PIPELINE_SEEDS]))
    return restorer.restore(pipeline_images(restorer, image_size_px), noise, num_steps)


def draw(face: TensorFace, rows: int, statistics: LatentStatistics, generator: torch.Generator) -> torch.Tensor:
    """Draw inputs such as the network meets in service.

    Pictures are smooth fields with a little noise, in their range; `x_t` and `source_mean` are such pictures in pixel
    space, and standard normal, as normalised latents are, in latent space; `latent` has the statistics of raw latents;
    times are spread over [0, 1].
    """
    if face.picture:
        low, high = face.range or (0.0, 1.0)
        field = F.interpolate(torch.rand(rows, 3, 6, 6, generator=generator), face.shape[1:], mode="bicubic")
        field = field + 0.03 * torch.randn(field.shape, generator=generator)
        return low + (high - low) * field.clamp(0, 1)
    if face.name == "t":
        return (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows
    normal = torch.randn(rows, *face.shape, generator=generator)
    return statistics.denormalise(normal) if face.name == "latent" else normal


def draw_all(spec: GraphSpec, rows: int, statistics: LatentStatistics, seed: int) -> list[torch.Tensor]:
    """Draw every input of a network, in its order.

    The state of a velocity that sees its source's mean lies as far from that as such states lie at their times.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {face.name: draw(face, rows, statistics, generator) for face in spec.inputs}
    known = getattr(spec.module, "preconditioning", None)
    if isinstance(known, Preconditioning):
        offset = torch.randn(drawn["x_t"].shape, generator=generator)
        drawn["x_t"] = drawn["source_mean"] + offset / known(drawn["t"]).c_in
    return list(drawn.values())


def feeds_of(spec: GraphSpec, tensors: Sequence[torch.Tensor]) -> dict[str, F32Array]:
    """The same inputs as onnxruntime takes them, by name."""
    return {face.name: tensor.numpy() for face, tensor in zip(spec.inputs, tensors, strict=True)}


def pipeline_images(restorer: Restorer, image_size_px: int) -> torch.Tensor:
    """The drawn images of the pipeline's comparison, one for each of `PIPELINE_SEEDS`."""
    face = TensorFace("image", (3, image_size_px, image_size_px), (0.0, 1.0), picture=True)
    return draw(face, len(PIPELINE_SEEDS), restorer.statistics, torch.Generator().manual_seed(_SEED))


@dataclass(frozen=True, slots=True)
class _Case:
    """One comparison: `drawn` tells inputs as in service from the ends of the ranges."""

    name: str
    tensors: Sequence[torch.Tensor]
    drawn: bool


def _cases(spec: GraphSpec, statistics: LatentStatistics) -> Iterator[_Case]:
    for rows in BATCH_SIZES:
        yield _Case(f"batch {rows}", draw_all(spec, rows, statistics, _SEED + rows), True)
    for end, name in enumerate(("lowest", "highest")):
        bounds = [face.range or (0.0, 1.0) for face in spec.inputs]
        filled = zip(spec.inputs, bounds, strict=True)
        yield _Case(f"all {name}", [torch.full((1, *face.shape), bound[end]) for face, bound in filled], False)
