"""Restored face in, the face to paste out: a pixel blend between the sample and the posterior mean."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from service.core.errors import InferenceFailed
from service.core.face_ellipse import face_luma, fine_energy
from service.core.types import F32Array, RestoredFace, U8Image

# How many times the posterior mean's energy of the finest detail a blend has. At one half, clean faces have 1.0 to 1.15
# times as much, large ones of JPEG quality 50 1.2, blurred by a pixel 3, moderately degraded 6 (EXPERIMENTS.md, G17).
_NO_GAIN, _WORTH_ALL = 1.05, 1.25
# RMSE between a face as the networks were shown it and its posterior mean, 38 and 34 dB. Clean faces have 38 to 41 dB.
_HARDLY_MOVED, _MOVED = 0.0125, 0.02
_LEAST_ENERGY = 1e-12


@dataclass(frozen=True, slots=True)
class BlendedFace:
    """A face as it goes into the photo.

    Attributes:
        face_index: As in the FaceJob.
        pixels: (S, S, 3) float32 RGB in [0, 1], up to rounding.
        fidelity: 0 where `pixels` are the sample, 1 where they are the posterior mean.
        ind_rmse: RMSE between the blend that was asked for and the posterior mean, an indicator of the error that needs
            no clean photo.
    """

    face_index: int
    pixels: F32Array
    fidelity: float
    ind_rmse: float


def blend(face: RestoredFace, fidelity: float) -> BlendedFace:
    """Walk the straight line from the sample to the posterior mean (Freirich et al., 2021).

    Args:
        face: Sample and posterior mean.
        fidelity: In [0, 1]; 0 gives the sample, 1 the posterior mean.

    Raises:
        InferenceFailed: Sample or posterior mean holds values that are not finite.
    """
    pixels = np.asarray(cv2.addWeighted(face.posterior_mean, fidelity, face.sample, 1 - fidelity, 0), np.float32)
    ind_rmse = cv2.norm(pixels, face.posterior_mean, cv2.NORM_L2) / math.sqrt(pixels.size)
    if not math.isfinite(ind_rmse):
        raise InferenceFailed("a restored face holds values that are not finite", hint="try again")
    return BlendedFace(face.face_index, pixels, fidelity, ind_rmse)


def blend_where_it_draws(face: RestoredFace, crop: U8Image, fidelity: float, shrink: float) -> BlendedFace:
    """The blend of a caller who leaves the fidelity to the service.

    A blend is farther from the clean face than the posterior mean is; the sample's detail is what that is worth. A face
    that was hardly degraded has its own detail in the posterior mean, and the sample's would only take its place.

    Args:
        face: Sample and posterior mean.
        crop: (S, S, 3) uint8 RGB, what they were made of.
        fidelity: As of `blend`; nearer to 1 where such a blend has little more detail than the posterior mean, and that
            is little else than the crop.
        shrink: As of `face_luma`: what the result cannot show does not count.

    Raises:
        InferenceFailed: As of `blend`.
    """
    blended = blend(face, fidelity)
    mean, drawn, shown = (face_luma(each, shrink) for each in (face.posterior_mean, blended.pixels, crop))
    gain = fine_energy(drawn) / max(fine_energy(mean), _LEAST_ENERGY)
    moved = cv2.norm(mean, shown, cv2.NORM_L2) / math.sqrt(mean.size)
    share = max(np.interp(gain, (_NO_GAIN, _WORTH_ALL), (0, 1)), np.interp(moved, (_HARDLY_MOVED, _MOVED), (0, 1)))
    if share == 1:
        return blended
    return replace(blend(face, float(1 - (1 - fidelity) * share)), ind_rmse=blended.ind_rmse)
