"""Where a face is in a crop, an ellipse from the brows to the chin and between the ears; its light and fine detail."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from service.core.types import F32Array, U8Image

# Middle and half axes, of a 512 x 512 crop.
_MIDDLE_512, _HALF_512 = (256.0, 290.0), (140.0, 190.0)
_SMOOTH = np.array([0.25, 0.5, 0.25], np.float32)


def half_axes_away(size_px: int, every_px: int = 1) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far columns and rows lie from the middle of the face, in its half axes: their squares are 1 at its edge.

    Of a crop of `size_px` a side every `every_px`-th is asked about.
    """
    at = (np.arange(0, size_px, every_px) + 0.5) * (512 / size_px)
    across, down = (np.abs(at - middle) / half for middle, half in zip(_MIDDLE_512, _HALF_512, strict=True))
    return across, down


@cache
def around_face(size_px: int) -> tuple[slice, slice]:
    """Rows and columns of the least rectangle that holds the face in a crop of `size_px` a side."""
    across, down = half_axes_away(size_px)
    return _inside(down), _inside(across)


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
    """Mean square of the detail, two to four pixels long, of a picture of one channel; in squares of its range."""
    smooth = cv2.sepFilter2D(luma, -1, _SMOOTH, _SMOOTH, borderType=cv2.BORDER_REFLECT)
    return float(cv2.norm(luma, smooth, cv2.NORM_L2SQR)) / luma.size


def _inside(away: npt.NDArray[np.float64]) -> slice:
    """Where an axis meets the ellipse."""
    first, *_, last = np.flatnonzero(away <= 1).tolist()
    return slice(first, last + 1)
