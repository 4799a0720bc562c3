"""What a face costs: parameters and arithmetic of every network.

Arithmetic is counted on PyTorch's meta device, on which nothing is computed: products of matrices, convolutions and
attention, a multiplication with its addition as two operations, whole blocks of a neighbourhood counted as they are
computed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from export.networks import GraphSpec, graph_specs
from export.trained import Trained
from latent_pmrf.config import ESTIMATOR_PRESETS, VAE_PRESETS, VELOCITY_PRESETS
from latent_pmrf.evaluation.summary import counted_steps
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.build import build


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
    Pipeline("latent-pmrf-s, bundled", "s-unet", "xs", "s", 512, 1),
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
    return [cost_of(spec, pipeline.num_steps if spec.name == "velocity" else 1) for spec in specs]


def cost_of(spec: GraphSpec, calls: int) -> Cost:
    """Parameters and arithmetic of one network for one face, which is called `calls` times."""
    module = copy.deepcopy(spec.module).to("meta")
    inputs = [torch.empty(1, *face.shape, device="meta") for face in spec.inputs]
    used: set[str] = set()
    for name, part in module.named_modules():
        part.register_forward_pre_hook(lambda _module, _inputs, prefix=name: used.add(prefix))
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        module(*inputs)
    parameters = sum(p.numel() for name, p in module.named_parameters() if name.rpartition(".")[0] in used)
    return Cost(spec.name, parameters, counter.get_total_flops() / 1e9, calls)


def cost_table(pipelines: Sequence[Pipeline] = PIPELINES) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| pipeline | network | parameters, M | GFLOP per call | calls per face | GFLOP per face |"
    yield "|---|---|---|---|---|---|"
    for pipeline in pipelines:
        rows = costs(pipeline)
        title = f"{pipeline.name}, {pipeline.image_size_px} px, {counted_steps(pipeline.num_steps)}"
        for row in rows:
            per_face = row.gflop * row.calls
            yield (
                f"| {title} | {row.network} | {row.parameters / 1e6:.1f} | {row.gflop:.1f} | {row.calls} "
                f"| {per_face:.0f} |"
            )
        parameters, gflop = sum(row.parameters for row in rows), sum(row.gflop * row.calls for row in rows)
        yield f"| {title} | together | {parameters / 1e6:.1f} | | | {gflop:.0f} |"
