"""The quality floors a bundle must hold before it is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latent_pmrf.evaluation.dataset import LEVELS
from latent_pmrf.evaluation.summary import Summary, Variant

SEVERE_SHARE_NEARER = 0.75
SAMPLE_LOSS_DB = 1.2
SAMPLE_SHARPNESS = (0.6, 1.2)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is required of the parts of a bundle.

    Attributes:
        estimator_gain_db: PSNR above the input's, by level.
        vae_psnr_db: Of the autoencoder alone.
        vae_sharpness: Likewise.
        sample: Whether the sample itself, without a blend, is held against its estimator.
    """

    estimator_gain_db: Mapping[str, float]
    vae_psnr_db: float
    vae_sharpness: float
    sample: bool = False


_SMALL = Bounds({"moderate": 1.0, "severe": 1.8}, vae_psnr_db=36.0, vae_sharpness=0.60)
_FULL = Bounds({"moderate": 1.5, "severe": 2.5}, vae_psnr_db=38.0, vae_sharpness=0.80, sample=True)
_FULL_SIZE_PX = 512


def bounds_of(image_size_px: int) -> Bounds:
    """The bounds for crops of this side: those of 256 px below the 512 px of the published models."""
    return _FULL if image_size_px >= _FULL_SIZE_PX else _SMALL


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


def check_floors(summaries: Mapping[Variant, Summary], default: tuple[int, float], image_size_px: int) -> list[Floor]:
    """Hold the measured means against the floors.

    Args:
        summaries: Means with input, estimator, default and sample of the default's steps at both levels, and the VAE.
        default: Number of steps and fidelity of the manifest.
        image_size_px: Side of the crops.
    """
    bounds, vae = bounds_of(image_size_px), summaries[Variant("clean", "vae")]
    floors = [
        Floor("VAE reconstruction, PSNR (dB)", vae.psnr, bounds.vae_psnr_db),
        Floor("VAE reconstruction, sharpness", min(vae.sharpness, vae.pooled_sharpness), bounds.vae_sharpness),
    ]
    for level in LEVELS:
        before, output = summaries[Variant(level, "input")], summaries[Variant(level, "default", *default)]
        gain = summaries[Variant(level, "estimator")].psnr - before.psnr
        floors += [
            Floor(f"{level}: estimator over input, PSNR (dB)", gain, bounds.estimator_gain_db[level]),
            Floor(f"{level}: default output, PSNR (dB), against the input's", output.psnr, before.psnr),
            Floor(f"{level}: default output, SSIM, against the input's", output.ssim, before.ssim),
            Floor(
                f"{level}: default output, identity distance, against the input's",
                output.identity,
                before.identity if before.identity is not None else 0.0,
                at_most=True,
            ),
        ]
        if bounds.sample:
            estimator, sample = summaries[Variant(level, "estimator")], summaries[Variant(level, "sample", default[0])]
            floors += _sample_floors(level, estimator, sample)
    severe = summaries[Variant("severe", "default", *default)]
    floors.append(Floor("severe: share of faces nearer than the input", severe.share_nearer, SEVERE_SHARE_NEARER))
    return floors


def _sample_floors(level: str, estimator: Summary, sample: Summary) -> list[Floor]:
    least, most = SAMPLE_SHARPNESS
    nearest = estimator.identity if estimator.identity is not None else 0.0
    return [
        Floor(f"{level}: sample under its estimator, PSNR (dB)", estimator.psnr - sample.psnr, SAMPLE_LOSS_DB, True),
        Floor(f"{level}: sample, sharpness, at least", sample.sharpness, least),
        Floor(f"{level}: sample, sharpness, at most", sample.sharpness, most, True),
        Floor(f"{level}: sample, identity distance, against its estimator's", sample.identity, nearest, True),
    ]
