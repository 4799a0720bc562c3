"""Choice of the default number of steps and fidelity: as much of the sample as the floors allow.

For every number of steps the fidelity rises from 0 until the blend is no worse than the degraded input in PSNR and
SSIM at every level, and then until identity holds as well. Among those blends the sharpest wins, because that is what
the sample brings over the posterior mean; grid and grain limits keep the Laplacian from rewarding artefacts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from latent_pmrf.evaluation.scoring import BlendScores
from latent_pmrf.evaluation.summary import Summary

LevelSummaries = Mapping[str, Summary]
Sweep = Mapping[tuple[int, float], Mapping[str, BlendScores]]


@dataclass(frozen=True, slots=True)
class Margins:
    """How far inside the floors a default must lie, so that other photos hold them too.

    Attributes:
        psnr_db: Above the input's PSNR.
        ssim: Above the input's SSIM.
        identity: Relative reduction of the mean identity distance.
        severe_share_nearer: Least share of severe faces nearer to the clean face than the input.
        blockiness: Largest mean of `metrics.blockiness`.
        colour_shift: Largest mean colour shift, in 8-bit levels above the input's.
        flat_grain: Largest mean grain in flat areas, in 8-bit levels above the clean face.
        sharpness_tolerance: Fewer steps win if their sharpness is within this relative distance of the best.
    """

    psnr_db: float = 0.05
    ssim: float = 0.002
    identity: float = 0.02
    severe_share_nearer: float = 0.80
    blockiness: float = 1.10
    colour_shift: float = 1.0
    flat_grain: float = 1.0
    sharpness_tolerance: float = 0.03


@dataclass(frozen=True, slots=True)
class Candidate:
    """The least fidelity that one number of steps may have.

    Attributes:
        num_steps: Euler steps.
        fidelity: The least feasible fidelity, or None where no fidelity is feasible.
        sharpness: Mean over the levels, or None.
        reason: What the next lower fidelity misses, or the highest one where none is feasible.
    """

    num_steps: int
    fidelity: float | None
    sharpness: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen default and what it was chosen from; both None where nothing is feasible."""

    num_steps: int | None
    fidelity: float | None
    candidates: tuple[Candidate, ...]


def choose_defaults(
    sweep: Sweep,
    inputs: LevelSummaries,
    measure: Callable[[int, float], LevelSummaries],
    margins: Margins | None = None,
) -> Choice:
    """Choose the default steps and fidelity.

    Args:
        sweep: Means of the cheap scores by (number of steps, fidelity) and level.
        inputs: The degraded inputs, by level.
        measure: All scores of one blend by level; called only for blends that pass the cheap ones.
        margins: How far inside the floors to stay.
    """
    gate = _Gate(inputs, margins or Margins())
    steps = sorted({num_steps for num_steps, _ in sweep})
    candidates = [_least_fidelity(num_steps, sweep, gate, measure) for num_steps in steps]
    feasible = [item for item in candidates if item.fidelity is not None and item.sharpness is not None]
    best = max((item.sharpness or 0.0 for item in feasible), default=0.0)
    for item in feasible:  # ascending steps: the cheapest of the nearly best
        if (item.sharpness or 0.0) >= best * (1 - gate.margins.sharpness_tolerance):
            return Choice(item.num_steps, item.fidelity, tuple(candidates))
    return Choice(None, None, tuple(candidates))


@dataclass(frozen=True, slots=True)
class _Gate:
    """Tells what a blend misses, or None."""

    inputs: LevelSummaries
    margins: Margins

    def distortion_miss(self, means: Mapping[str, BlendScores]) -> str | None:
        for level, before in self.inputs.items():
            psnr, ssim = before.psnr + self.margins.psnr_db, before.ssim + self.margins.ssim
            if means[level].psnr < psnr:
                return f"{level} PSNR {means[level].psnr:.2f} dB is below {psnr:.2f}"
            if means[level].ssim < ssim:
                return f"{level} SSIM {means[level].ssim:.4f} is below {ssim:.4f}"
        return None

    def appearance_miss(self, summaries: LevelSummaries) -> str | None:
        for level, before in self.inputs.items():
            after = summaries[level]
            limits = [
                ("blockiness", after.blockiness, self.margins.blockiness),
                ("colour shift", after.colour_shift, before.colour_shift + self.margins.colour_shift),
                ("flat grain", after.flat_grain, self.margins.flat_grain),
            ]
            if after.identity is not None and before.identity is not None:
                limits.append(("identity distance", after.identity, before.identity * (1 - self.margins.identity)))
            for name, value, limit in limits:
                if value > limit:
                    return f"{level} {name} {value:.3f} is above {limit:.3f}"
            share, least = after.share_nearer, self.margins.severe_share_nearer
            if level == "severe" and share is not None and share < least:
                return f"severe share of nearer faces {share:.2f} is below {least:.2f}"
        return None


def _least_fidelity(
    num_steps: int, sweep: Sweep, gate: _Gate, measure: Callable[[int, float], LevelSummaries]
) -> Candidate:
    reason = "holds at the least fidelity measured"
    for fidelity in sorted(fidelity for steps, fidelity in sweep if steps == num_steps):
        means = sweep[num_steps, fidelity]
        miss = gate.distortion_miss(means) or gate.appearance_miss(measure(num_steps, fidelity))
        if miss is None:
            sharpness = sum(scores.sharpness for scores in means.values()) / len(means)
            return Candidate(num_steps, fidelity, sharpness, reason)
        reason = f"at {fidelity:.2f} {miss}"
    return Candidate(num_steps, None, None, reason)
