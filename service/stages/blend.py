"""Restored face in, the face to paste out: a pixel blend between the sample and the posterior mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from service.core.errors import InferenceFailed
from service.core.fine_detail import fine_energy
from service.core.types import F32Array, RestoredFace

# How many times the posterior mean's energy of the finest detail a blend has. At one half, clean faces have 1.0 to 1.15
# times as much, large ones of JPEG quality 50 1.2, blurred by a pixel 3, moderately degraded 6 (EXPERIMENTS.md, G17).
_NO_GAIN, _WORTH_ALL = 1.05, 1.25
_LEAST_ENERGY = 1e-12


@dataclass(frozen=True, slots=True)
class BlendedFace:
    """A face as it goes into the photo.

    Attributes:
        face_index: As in the FaceJob.
        pixels: (S, S, 3) float32 RGB in [0, 1], up to rounding.
        fidelity: 0 where `pixels` are the sample, 1 where they are the posterior mean.
        ind_rmse: RMSE between `pixels` and the posterior mean, an indicator of the error that needs no clean photo.
    """

    face_index: int
    pixels: F32Array
    fidelity: float
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
    return BlendedFace(face.face_index, pixels, fidelity, ind_rmse)


def blend_where_it_draws(face: RestoredFace, fidelity: float, shrink: float) -> BlendedFace:
    """The blend of a caller who leaves the fidelity to the service.

    A blend is farther from the clean face than the posterior mean is; the sample's detail is what that is worth. A face
    that was hardly degraded has its own detail in the posterior mean, and the sample's would only take its place.

    Args:
        face: Sample and posterior mean.
        fidelity: As of `blend`; nearer to 1 where such a blend has little more detail than the posterior mean.
        shrink: As of `fine_energy`: detail that the result cannot show does not count.

    Raises:
        ValueError, InferenceFailed: As of `blend`.
    """
    blended = blend(face, fidelity)
    had = fine_energy(face.posterior_mean, shrink)
    gain = fine_energy(blended.pixels, shrink) / max(had, _LEAST_ENERGY)
    share = min(1.0, max(0.0, (gain - _NO_GAIN) / (_WORTH_ALL - _NO_GAIN)))
    return blended if share == 1 else blend(face, 1 - (1 - fidelity) * share)
