"""Restored face in, the face to paste out: a pixel blend between the sample and the posterior mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.core.types import F32Array, RestoredFace


@dataclass(frozen=True, slots=True)
class BlendedFace:
    """A face as it goes into the photo.

    Attributes:
        face_index: As in the FaceJob.
        pixels: (S, S, 3) float32 RGB in [0, 1].
        ind_rmse: RMSE between `pixels` and the posterior mean, an indicator of the error that needs no clean photo.
    """

    face_index: int
    pixels: F32Array
    ind_rmse: float


def blend(face: RestoredFace, fidelity: float) -> BlendedFace:
    """Walk the straight line from the sample to the posterior mean (Freirich et al., 2021).

    Args:
        face: Sample and posterior mean.
        fidelity: 0 gives the sample, 1 the posterior mean.

    Raises:
        ValueError: `fidelity` is outside [0, 1].
    """
    if not 0.0 <= fidelity <= 1.0:
        raise ValueError(f"fidelity must be in [0, 1], not {fidelity}")
    weight = np.float32(fidelity)
    mixed: F32Array = weight * face.posterior_mean + (np.float32(1) - weight) * face.sample
    pixels = mixed.clip(0.0, 1.0)
    difference = (pixels - face.posterior_mean).astype(np.float64)
    return BlendedFace(face.face_index, pixels, float(np.sqrt(np.mean(difference * difference))))
