"""What a face costs: parameters and arithmetic of every network, and milliseconds on a GPU where there is one.

Arithmetic is counted on PyTorch's meta device, on which nothing is computed: products of matrices, convolutions and
attention, a multiplication with its addition as two operations, whole blocks of a neighbourhood counted as they are
computed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from export.networks import GraphSpec, graph_specs
from export.trained import Trained, awaken
from latent_pmrf.config import ESTIMATOR_PRESETS, VAE_PRESETS, VELOCITY_PRESETS
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.build import build

MODES = ("eager", "compiled", "graph")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A named set of networks at the size and number of steps they are used with.

    Attributes:
        name: What it is called in the table.
        estimator: Name in `ESTIMATOR_PRESETS`.
        vae: Name in `VAE_PRESETS`, or None for a flow in pixel space.
        velocity: Name in `VELOCITY_PRESETS`.
        image_size_px: Side of a face.
        num_steps: Euler steps.
    """

    name: str
    estimator: str
    vae: str | None
    velocity: str
    image_size_px: int
    num_steps: int


PIPELINES = (
    Pipeline("Latent-PMRF, published", "published", "published", "published", 512, 25),
    Pipeline("PMRF, published", "published", None, "pmrf-published", 512, 25),
    Pipeline("latent-pmrf-xs, bundled", "xs-unet", "xs", "xs", 256, 5),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """One network of a pipeline.

    Attributes:
        network: Its name in a bundle.
        parameters: Weights it computes with.
        gflop: Billions of operations of one call for one face.
        calls: Calls per face.
    """

    network: str
    parameters: int
    gflop: float
    calls: int


def networks_of(pipeline: Pipeline) -> Trained:
    """The networks with weights as they are initialised, on the current default device."""
    estimator = build(ESTIMATOR_PRESETS[pipeline.estimator]).eval().requires_grad_(False)
    vae = None if pipeline.vae is None else build(VAE_PRESETS[pipeline.vae]).eval().requires_grad_(False)
    velocity = build(VELOCITY_PRESETS[pipeline.velocity]).eval().requires_grad_(False)
    channels = velocity.config.in_channels
    statistics_ = LatentStatistics((0.0,) * channels, (1.0,) * channels, (0.1,) * channels)
    return Trained(estimator, vae, velocity, statistics_, {})


def costs(pipeline: Pipeline) -> list[Cost]:
    """Parameters and arithmetic of each network, in the order of the pipeline."""
    with torch.device("meta"):
        specs = graph_specs(networks_of(pipeline), pipeline.image_size_px)
    return [_cost(spec, pipeline.num_steps if spec.name == "velocity" else 1) for spec in specs]


def _cost(spec: GraphSpec, calls: int) -> Cost:
    inputs = [torch.empty(1, *face.shape, device="meta") for face in spec.inputs]
    used: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda _module, _inputs, prefix=name: used.add(prefix))
        for name, module in spec.module.named_modules()
    ]
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        spec.module(*inputs)
    for hook in hooks:
        hook.remove()
    parameters = sum(p.numel() for name, p in spec.module.named_parameters() if name.rpartition(".")[0] in used)
    return Cost(spec.name, parameters, counter.get_total_flops() / 1e9, calls)


def cost_table(pipelines: Sequence[Pipeline] = PIPELINES) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| pipeline | network | parameters, M | GFLOP per call | calls per face | GFLOP per face |"
    yield "|---|---|---|---|---|---|"
    for pipeline in pipelines:
        rows = costs(pipeline)
        title = f"{pipeline.name}, {pipeline.image_size_px} px, {pipeline.num_steps} steps"
        for row in rows:
            per_face = row.gflop * row.calls
            yield (
                f"| {title} | {row.network} | {row.parameters / 1e6:.1f} | {row.gflop:.1f} | {row.calls} "
                f"| {per_face:.0f} |"
            )
        parameters, gflop = sum(row.parameters for row in rows), sum(row.gflop * row.calls for row in rows)
        yield f"| {title} | together | {parameters / 1e6:.1f} | | | {gflop:.0f} |"


@dataclass(frozen=True, slots=True)
class GpuTiming:
    """Milliseconds of whole faces, one way of running PyTorch.

    Attributes:
        mode: One of `MODES`.
        rows: Faces at once.
        batch_ms: Time of each measured batch.
        tflops: Arithmetic of the median batch, in 10^12 operations a second.
    """

    mode: str
    rows: int
    batch_ms: Sequence[float]
    tflops: float


def measure_gpu(
    pipeline: Pipeline, *, rows: Sequence[int] = (1, 8, 16), modes: Sequence[str] = MODES, repeats: int = 10
) -> Iterator[GpuTiming]:
    """Time the pipeline in bfloat16 on the GPU, from degraded pictures to restored ones.

    Modes: PyTorch's eager mode; compiled by `torch.compile`; compiled and replayed as CUDA graphs.

    Raises:
        ValueError: There is no CUDA device.
    """
    gpu_name()
    gflop = sum(cost.gflop * cost.calls for cost in costs(pipeline))
    for mode in modes:
        trained = networks_of(pipeline)
        for network in trained.networks.values():
            awaken(network.to("cuda"))
            if mode != "eager":
                network.compile(mode="reduce-overhead" if mode == "graph" else None)
        for count in rows:
            side = pipeline.image_size_px
            y = torch.rand(count, 3, side, side, device="cuda")
            noise = torch.randn(count, *trained.restorer.state_shape(side), device="cuda")

            def restore(trained: Trained = trained, y: torch.Tensor = y, noise: torch.Tensor = noise) -> object:
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    return trained.restorer.restore(y, noise, pipeline.num_steps)

            batch_ms = _time_gpu_ms(restore, repeats)
            yield GpuTiming(mode, count, batch_ms, count * gflop / statistics.median(batch_ms))


def gpu_name() -> str:
    """What the CUDA device calls itself.

    Raises:
        ValueError: There is none.
    """
    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA device to measure on")
    return str(torch.cuda.get_device_name())


def _time_gpu_ms(call: Callable[[], object], repeats: int) -> list[float]:
    for _ in range(3):  # compiles, and records graphs
        call()
    times_ms = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times_ms.append(float(begin.elapsed_time(end)))
    return times_ms


def gpu_table(pipeline: Pipeline, peak_tflops: float | None) -> Iterator[str]:
    """The lines of a Markdown table; `peak_tflops` is the chip's, dense bfloat16, to be taken from its data sheet."""
    yield "| mode | faces at once | ms per face, median (range) | TFLOP/s | share of the peak |"
    yield "|---|---|---|---|---|"
    for timing in measure_gpu(pipeline):
        low, middle, high = (f(timing.batch_ms) / timing.rows for f in (min, statistics.median, max))
        share = "" if peak_tflops is None else f"{timing.tflops / peak_tflops:.0%}"
        yield f"| {timing.mode} | {timing.rows} | {middle:.1f} ({low:.1f}-{high:.1f}) | {timing.tflops:.0f} | {share} |"
