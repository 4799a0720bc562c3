"""What the columns of a survey are: name, direction, meaning. Values travel as mappings from these keys to numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """One column.

    Attributes:
        key: Name in CSV and JSON.
        title: Name in tables, with its unit.
        form: Format of a number in tables.
        better: Arrow of the better direction, empty where neither is.
        meaning: Definition in a line.
    """

    key: str
    title: str
    form: str
    better: str
    meaning: str

    @property
    def heading(self) -> str:
        """Title with the arrow."""
        return f"{self.title} {self.better}".strip()


PICTURE_MEASURES = (
    Measure("psnr", "PSNR dB", ".2f", "↑", "peak signal-to-noise ratio to the clean face, over RGB, at most 100"),
    Measure("ssim", "SSIM", ".4f", "↑", "11x11 Gaussian window of sigma 1.5, mean of the RGB channels"),
    Measure("ms_ssim", "MS-SSIM", ".4f", "↑", "SSIM over five scales (Wang et al., 2003)"),
    Measure("ind_rmse", "IndRMSE", ".4f", "↓", "RMSE to the estimator's output on [0, 1]; needs no clean face"),
    Measure("identity_deg", "identity deg", ".2f", "↓", "angle between the face embeddings of output and clean face"),
    Measure("landmark_px", "landmarks px", ".2f", "↓", "mean distance of dlib's landmarks, in pixels at 512"),
    Measure("sharpness", "sharpness", ".3f", "", "Laplacian variance over the clean face's; grain inflates it"),
    Measure("detail", "detail", ".3f", "", "Laplacian variance of the luma on [0, 1], times 1000; needs no clean face"),
    Measure("lpips", "LPIPS", ".4f", "↓", "learnt perceptual distance (Zhang et al., 2018)"),
    Measure("dists", "DISTS", ".4f", "↓", "structure and texture distance (Ding et al., 2020)"),
    Measure("musiq", "MUSIQ", ".2f", "↑", "quality without a reference (Ke et al., 2021)"),
)
"""Means over pictures."""

SET_MEASURES = (
    Measure("fid", "FID", ".2f", "↓", "Fréchet distance of Inception features to the reference faces"),
    Measure("fid_dinov2", "FID-DINOv2", ".2f", "↓", "the same with DINOv2 features (Stein et al., 2024)"),
    Measure(
        "mmd_dinov2", "MMD-DINOv2", ".4f", "↓", "unbiased squared MMD x 1000, RBF kernel of sigma 10, unit features"
    ),
)
"""Of all pictures of a row together."""

MEASURES = (*PICTURE_MEASURES, *SET_MEASURES)
NEED_CLEAN = frozenset({"psnr", "ssim", "ms_ssim", "identity_deg", "landmark_px", "sharpness", "lpips", "dists"})

WEIGHTS: dict[str, tuple[str, ...]] = {
    "arcface": ("identity_deg",),
    "lpips": ("lpips",),
    "dists": ("dists",),
    "musiq": ("musiq",),
    "fid": ("fid",),
    "dinov2": ("fid_dinov2", "mmd_dinov2"),
}
"""Measures that each kind of given weights (`--weights KIND=FILE`) makes possible; identity goes without, by dlib."""
