"""The brightness of a face as a picture shows it, and how much detail it has that is two to four pixels long."""

from __future__ import annotations

import cv2
import numpy as np

from service.core.face_ellipse import around_face
from service.core.types import F32Array, U8Image

_SMOOTH = np.array([0.25, 0.5, 0.25], np.float32)


def face_luma(crop: F32Array | U8Image, shrink: float = 1.0) -> F32Array:
    """The brightness of the rectangle around a face.

    Args:
        crop: (S, S, 3) RGB, float32 in [0, 1] or uint8.
        shrink: Pixels of the crop to one of the picture that it goes into, along a side; at most 1 for none.

    Returns:
        (h, w) float32 in [0, 1], in pixels of that picture.
    """
    rows, columns = around_face(crop.shape[0])
    luma = cv2.cvtColor(np.ascontiguousarray(crop[rows, columns]), cv2.COLOR_RGB2GRAY)
    if shrink > 1:
        height, width = (max(1, round(side / shrink)) for side in luma.shape)
        luma = cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(luma, np.float32) / np.float32(255) if crop.dtype == np.uint8 else np.asarray(luma, np.float32)


def fine_energy(luma: F32Array) -> float:
    """Mean square of what smoothing takes away from a picture of one channel, in squares of its range."""
    smooth = cv2.sepFilter2D(luma, -1, _SMOOTH, _SMOOTH, borderType=cv2.BORDER_REFLECT)
    return float(cv2.norm(luma, smooth, cv2.NORM_L2SQR)) / luma.size
