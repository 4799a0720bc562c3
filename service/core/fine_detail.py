"""How much detail a face has that is two to four pixels long: the finest that a picture shows."""

from __future__ import annotations

import cv2
import numpy as np

from service.core.face_ellipse import around_face
from service.core.types import F32Array

_SMOOTH = np.array([0.25, 0.5, 0.25], np.float32)


def fine_energy(picture: F32Array, shrink: float = 1.0) -> float:
    """Mean square of what smoothing takes away from a face's brightness.

    Args:
        picture: (S, S, 3) float32 RGB, a restored crop.
        shrink: Pixels of the crop to one of the picture that it goes into, along a side; at most 1 for none.

    Returns:
        Of the rectangle around the face, in squares of the picture's range.
    """
    rows, columns = around_face(picture.shape[0])
    luma = cv2.cvtColor(np.ascontiguousarray(picture[rows, columns]), cv2.COLOR_RGB2GRAY)
    if shrink > 1:
        height, width = (max(1, round(side / shrink)) for side in luma.shape)
        luma = cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)
    smooth = cv2.sepFilter2D(luma, -1, _SMOOTH, _SMOOTH, borderType=cv2.BORDER_REFLECT)
    return float(cv2.norm(luma, smooth, cv2.NORM_L2SQR)) / luma.size
