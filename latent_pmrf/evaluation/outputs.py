"""Every output of a bundle that a survey measures: input, estimator, samples by steps, blends by fidelity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation.bundle import BundleRestorer, BundleSpec
from latent_pmrf.evaluation.restoration import photo_seed, to_u8, to_unit
from latent_pmrf.evaluation.scoring import blend
from latent_pmrf.evaluation.summary import Variant

U8Image = npt.NDArray[np.uint8]


def default_variant(level: str, spec: BundleSpec) -> Variant:
    """What the manifest's steps and fidelity give: a blend, or the sample or the estimator at its ends."""
    return _variant(level, spec.default_num_steps, spec.default_fidelity)


def variants_of(
    level: str, spec: BundleSpec, num_steps: Sequence[int], fidelities: Sequence[float]
) -> tuple[Variant, ...]:
    """Rows of one level: samples by steps, and blends at the manifest's steps.

    Args:
        level: Name of the level.
        spec: The bundle; its defaults are added, steps beyond its maximum left out.
        num_steps: Numbers of steps to sample.
        fidelities: Blends, 0 to 1.
    """
    steps = sorted({value for value in num_steps if value <= spec.max_num_steps} | {spec.default_num_steps})
    blends = sorted({*fidelities, spec.default_fidelity})
    rows = [Variant(level, "input"), Variant(level, "estimator")]
    rows += [Variant(level, "sample", value) for value in steps]
    rows += [_variant(level, spec.default_num_steps, fidelity) for fidelity in blends]
    return tuple(dict.fromkeys(rows))


def restore_variants(
    bundle: BundleRestorer, degraded: Sequence[U8Image], variants: Sequence[Variant], seed: int, first_index: int
) -> tuple[U8Image, U8Image]:
    """Restore a batch in every way.

    Args:
        bundle: The networks.
        degraded: B faces, each (S, S, 3) uint8 RGB.
        variants: V rows of one level.
        seed: Of the noise.
        first_index: Index of the first face in its level, which tells its noise from the others'.

    Returns:
        Outputs (B, V, S, S, 3) and posterior means (B, S, S, 3), uint8.
    """
    mean = bundle.estimate(to_unit(degraded))
    estimates = to_u8(mean)
    source = bundle.source(mean, [photo_seed(seed, first_index + row) for row in range(len(degraded))])
    steps = sorted({variant.num_steps for variant in variants if variant.num_steps})
    samples = {value: to_u8(bundle.transport(source, value)) for value in steps}
    outputs = []
    for variant in variants:
        if variant.method == "input":
            outputs.append(np.stack(degraded))
        elif variant.method == "estimator":
            outputs.append(estimates)
        else:
            outputs.append(blend(samples[variant.num_steps], estimates, variant.fidelity))
    return np.stack(outputs, axis=1), estimates


def _variant(level: str, num_steps: int, fidelity: float) -> Variant:
    if fidelity >= 1:
        return Variant(level, "estimator")
    return Variant(level, "sample", num_steps) if fidelity <= 0 else Variant(level, "blend", num_steps, fidelity)
