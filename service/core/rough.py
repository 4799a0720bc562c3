"""How much of the finest detail, two to four pixels long, an estimate has left on the skin.

A face has it at lashes and hairs; screens, scan lines and noise of single pixels have it everywhere.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from service.core.face_ellipse import around_face, half_axes_away
from service.core.fine_detail import face_luma
from service.core.types import F32Array

_LOW, _HIGH = np.array([0.25, 0.5, 0.25], np.float32), np.array([-0.25, 0.5, -0.25], np.float32)
_WAVES = ((_LOW, _HIGH), (_HIGH, _LOW), (_HIGH, _HIGH))
_SHARE = 25  # percentile: that part of a face is plain skin
_LOOKED_AT = 4  # one pixel of so many, drawn once: in a grid they would keep time with screens


def roughness(picture: F32Array) -> float:
    """What the smoothest quarter of a face has of waves along, across or both.

    Args:
        picture: (S, S, 3) float32 RGB, a posterior mean, in [0, 1].

    Returns:
        Of the three the largest, in the picture's range.
    """
    luma, places = face_luma(picture), _places(picture.shape[0])
    waves = [np.asarray(cv2.sepFilter2D(luma, -1, across, down)).take(places) for across, down in _WAVES]
    return max(float(np.percentile(np.abs(wave), _SHARE)) for wave in waves)


@cache
def _places(size_px: int) -> npt.NDArray[np.intp]:
    """Places of the face's pixels among those of the rectangle around it."""
    across, down = half_axes_away(size_px)
    rows, columns = around_face(size_px)
    places = np.flatnonzero(across[columns] ** 2 + down[rows, None] ** 2 <= 1)
    return np.random.default_rng(0).permutation(places)[::_LOOKED_AT]
