"""Restored face in, the face to paste out: a pixel blend between the sample and the posterior mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from service.core.errors import InferenceFailed
from service.core.types import F32Array, RestoredFace


@dataclass(frozen=True, slots=True)
class BlendedFace:
    """A face as it goes into the photo.

    Attributes:
        face_index: As in the FaceJob.
        pixels: (S, S, 3) float32 RGB in [0, 1], up to rounding.
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
        InferenceFailed: Sample or posterior mean holds values that are not finite.
    """
    if not 0.0 <= fidelity <= 1.0:
        raise ValueError(f"fidelity must be in [0, 1], not {fidelity}")
    pixels = np.asarray(cv2.addWeighted(face.posterior_mean, fidelity, face.sample, 1 - fidelity, 0), np.float32)
    ind_rmse = cv2.norm(pixels, face.posterior_mean, cv2.NORM_L2) / math.sqrt(pixels.size)
    if not math.isfinite(ind_rmse):
        raise InferenceFailed("a restored face holds values that are not finite", hint="try again")
    return BlendedFace(face.face_index, pixels, ind_rmse)
