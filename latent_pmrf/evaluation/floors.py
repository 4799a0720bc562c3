"""The quality floors a bundle must hold before it is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latent_pmrf.evaluation.dataset import LEVELS
from latent_pmrf.evaluation.summary import Summary, Variant

ESTIMATOR_GAIN_DB: Mapping[str, float] = {"moderate": 1.0, "severe": 1.8}
VAE_PSNR_DB = 36.0
VAE_SHARPNESS = 0.60
SEVERE_SHARE_NEARER = 0.75


@dataclass(frozen=True, slots=True)
class Floor:
    """One requirement.

    Attributes:
        name: What is required, with its unit.
        value: What was measured, or None where it was not.
        bound: The least value, or the greatest where `at_most`.
        at_most: Whether `bound` is a ceiling (distances).
    """

    name: str
    value: float | None
    bound: float
    at_most: bool = False

    @property
    def passed(self) -> bool:
        """Whether the requirement holds; what was not measured does not."""
        if self.value is None:
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def check_floors(summaries: Mapping[Variant, Summary], default: tuple[int, float]) -> list[Floor]:
    """Hold the measured means against the floors.

    Args:
        summaries: Means with input, estimator and default at both levels, and the VAE.
        default: Number of steps and fidelity of the manifest.
    """
    vae = summaries[Variant("clean", "vae")]
    floors = [
        Floor("VAE reconstruction, PSNR (dB)", vae.psnr, VAE_PSNR_DB),
        Floor("VAE reconstruction, sharpness", min(vae.sharpness, vae.pooled_sharpness), VAE_SHARPNESS),
    ]
    for level in LEVELS:
        before, output = summaries[Variant(level, "input")], summaries[Variant(level, "default", *default)]
        gain = summaries[Variant(level, "estimator")].psnr - before.psnr
        floors += [
            Floor(f"{level}: estimator over input, PSNR (dB)", gain, ESTIMATOR_GAIN_DB[level]),
            Floor(f"{level}: default output, PSNR (dB), against the input's", output.psnr, before.psnr),
            Floor(f"{level}: default output, SSIM, against the input's", output.ssim, before.ssim),
            Floor(
                f"{level}: default output, identity distance, against the input's",
                output.identity,
                before.identity if before.identity is not None else 0.0,
                at_most=True,
            ),
        ]
    severe = summaries[Variant("severe", "default", *default)]
    floors.append(Floor("severe: share of faces nearer than the input", severe.share_nearer, SEVERE_SHARE_NEARER))
    return floors
