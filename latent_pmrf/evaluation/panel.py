"""Measures of one face's outputs that need no given weights, on this thread or on a pool of processes.

    Panel (outputs, estimate, clean) -> key -> one number per output

Outputs are measured after rounding to 8 bits, as a user receives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation import metrics
from latent_pmrf.evaluation.identity import FaceIdentifier, angle_deg, landmark_distance_px
from latent_pmrf.evaluation.restoration import to_unit
from latent_pmrf.evaluation.scoring import PSNR_CAP_DB
from latent_pmrf.evaluation.workers import Workers

U8Image = npt.NDArray[np.uint8]
PanelScores = Mapping[str, Sequence[float]]

MS_SSIM_LEAST_PX = 176


@dataclass(frozen=True, slots=True)
class Panel:
    """All outputs of one face.

    Attributes:
        outputs: (V, S, S, 3) uint8 RGB.
        estimate: (S, S, 3) posterior mean, or None where the outputs have none (the VAE's reconstruction).
        clean: (S, S, 3), or None without a reference.
    """

    outputs: U8Image
    estimate: U8Image | None
    clean: U8Image | None


def measure_panel(panel: Panel, identifier: FaceIdentifier | None = None) -> PanelScores:
    """Every measure that the panel allows.

    Args:
        panel: The pictures.
        identifier: For identity and landmarks; None leaves them out.

    Raises:
        ValueError: The clean face is flat.
    """
    images = to_unit(list(panel.outputs))
    scores: dict[str, Sequence[float]] = {"detail": [1000.0 * metrics.laplacian_variance(image) for image in images]}
    if panel.estimate is not None:
        estimate = to_unit([panel.estimate])[0]
        scores["ind_rmse"] = [metrics.ind_rmse(image, estimate) for image in images]
    if panel.clean is None:
        return scores
    clean = to_unit([panel.clean])[0]
    scores["psnr"] = [min(metrics.psnr(image, clean), PSNR_CAP_DB) for image in images]
    scores["ssim"] = [metrics.ssim(image, clean) for image in images]
    scores["sharpness"] = [metrics.sharpness_ratio(image, clean) for image in images]
    if clean.shape[0] >= MS_SSIM_LEAST_PX:
        scores["ms_ssim"] = [metrics.ms_ssim(image, clean) for image in images]
    if identifier is not None:
        reference = identifier.sign(panel.clean)
        signatures = [identifier.sign(output) for output in panel.outputs]
        scores["identity_deg"] = [angle_deg(item.embedding, reference.embedding) for item in signatures]
        scores["landmark_px"] = [landmark_distance_px(item, reference) for item in signatures]
    return scores


class PanelScorer(Workers):
    """Measures panels on `num_workers` processes, or on this thread for one."""

    def measure(self, panels: Sequence[Panel]) -> list[PanelScores]:
        """Scores of panels, in their order."""
        return list(self.map(measure_panel, panels))
