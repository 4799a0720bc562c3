"""The PyTorch reference on a GPU: milliseconds beside the roofline, and what bfloat16 costs in the picture.

Networks, degraded pictures and noise go in; the lines of a report on every mode and batch size come out.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from export.cost import Pipeline, costs
from export.parity import PIPELINE_SEEDS, pipeline_images
from export.precision import psnr_db
from export.trained import Trained
from latent_pmrf.evaluation.bundle import source_noise

MODES = ("eager", "compiled", "graph")
ROWS = (1, 8, 16)
_BYTES_OF_A_WEIGHT = 2


@dataclass(frozen=True, slots=True)
class Roof:
    """What a GPU can do at best, from its data sheet.

    Attributes:
        tflops: Dense bfloat16 arithmetic, in 10^12 operations a second.
        gbs: Memory traffic, in 10^9 bytes a second.
    """

    tflops: float
    gbs: float

    def __post_init__(self) -> None:
        """Refuse what no GPU has."""
        if not (self.tflops > 0 and self.gbs > 0):
            raise ValueError(f"a GPU has more than {self.tflops:g} TFLOP/s and {self.gbs:g} GB/s")

    def floor_ms(self, pipeline: Pipeline, rows: int) -> float:
        """Least time of a batch: of its arithmetic, or of reading the weights once a call where that takes longer."""
        return sum(
            cost.calls * max(rows * cost.gflop / self.tflops, cost.parameters * _BYTES_OF_A_WEIGHT / self.gbs / 1e6)
            for cost in costs(pipeline)
        )


@dataclass(frozen=True, slots=True)
class GpuTiming:
    """Milliseconds of whole faces, one way of running PyTorch.

    Attributes:
        mode: One of `MODES`.
        rows: Faces at once.
        batch_ms: Time of each measured batch.
    """

    mode: str
    rows: int
    batch_ms: Sequence[float]


def gpu_name() -> str:
    """What the CUDA device calls itself.

    Raises:
        ValueError: There is none.
    """
    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA device to measure on")
    return str(torch.cuda.get_device_name())


def measure_gpu(
    pipeline: Pipeline,
    trained: Trained,
    *,
    rows: Sequence[int] = ROWS,
    modes: Sequence[str] = MODES,
    repeats: int = 10,
) -> Iterator[GpuTiming]:
    """Time the pipeline in bfloat16 on the GPU, from degraded pictures to restored ones.

    Modes: PyTorch's eager mode; compiled by `torch.compile`; compiled and replayed as CUDA graphs.

    Raises:
        ValueError: There is no CUDA device.
    """
    gpu_name()
    side = pipeline.image_size_px
    for mode in modes:
        ours = copy.deepcopy(trained)
        for network in ours.networks.values():
            network.to("cuda")
            if mode != "eager":
                network.compile(mode="reduce-overhead" if mode == "graph" else None)
        for count in rows:
            y = torch.rand(count, 3, side, side, device="cuda")
            noise = torch.randn(count, *ours.restorer.state_shape(side), device="cuda")

            def restore(ours: Trained = ours, y: torch.Tensor = y, noise: torch.Tensor = noise) -> object:
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    return ours.restorer.restore(y, noise, pipeline.num_steps)

            yield GpuTiming(mode, count, _time_gpu_ms(restore, repeats))


def bfloat16_psnr_db(trained: Trained, pipeline: Pipeline, device: str) -> float:
    """Least PSNR of pictures that PyTorch restores in bfloat16 (autocast) beside its own in float32, in dB.

    Args:
        trained: The networks; they are left where they are.
        pipeline: Size of a face, and steps.
        device: `cuda` or `cpu`.
    """
    ours = copy.deepcopy(trained)
    for network in ours.networks.values():
        network.to(device)
    side, restorer = pipeline.image_size_px, ours.restorer
    y = pipeline_images(trained.restorer, side).to(device)
    noise = torch.stack([torch.from_numpy(source_noise(restorer.state_shape(side), seed)) for seed in PIPELINE_SEEDS])
    noise = noise.to(device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 rounds as bfloat16 nearly does
        exact = restorer.restore(y, noise, pipeline.num_steps)
    with torch.autocast(device, dtype=torch.bfloat16):
        rounded = restorer.restore(y, noise, pipeline.num_steps)
    pairs = ((exact.sample, rounded.sample), (exact.posterior_mean, rounded.posterior_mean))
    return min(
        psnr_db(theirs.float().cpu().numpy(), found.float().cpu().numpy())
        for reference, pictures in pairs
        for theirs, found in zip(reference, pictures, strict=True)
    )


def gpu_report(pipeline: Pipeline, trained: Trained, weights: str, roof: Roof | None) -> Iterator[str]:
    """The lines of a pipeline's report: a Markdown table, and what bfloat16 costs.

    Args:
        pipeline: What is measured.
        trained: Its networks.
        weights: Where they come from, for the title.
        roof: The chip's, for the last two columns.
    """
    yield f"{pipeline.name} ({weights}), bfloat16, on {gpu_name()}:"
    yield ""
    yield "| mode | faces at once | ms per face, median (range) | roofline, ms per face | share of the roofline |"
    yield "|---|---|---|---|---|"
    for timing in measure_gpu(pipeline, trained):
        low, middle, high = (f(timing.batch_ms) / timing.rows for f in (min, statistics.median, max))
        floor = None if roof is None else roof.floor_ms(pipeline, timing.rows) / timing.rows
        told = " | " if floor is None else f"{floor:.2f} | {floor / middle:.0%}"
        yield f"| {timing.mode} | {timing.rows} | {middle:.2f} ({low:.2f}-{high:.2f}) | {told} |"
    yield ""
    yield f"bfloat16 beside float32: at least {bfloat16_psnr_db(trained, pipeline, 'cuda'):.1f} dB a picture."


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
