"""Finer: where a restored crop leaves the photo the detail that its pixels are too large for.

The networks see a crop, and of a face that is larger than the crop they know nothing finer. On the face itself that
detail is replaced with the rest; hair and what is behind it are not what a restoration is asked for, and keep it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from service.core.types import AlignedFace, F32Array

# Pixels of the photo to a pixel of the crop along one side: up to the first nothing is kept, from the second on all.
_SPAN_PX = (1.0, 1.5)
# Of a 512 x 512 crop: an ellipse from the forehead to the chin, and where in its radius the face ends.
_FACE_512 = ((256.0, 276.0), (140.0, 185.0))
_FACE_ENDS = (0.85, 1.15)


def finer_kept(aligned: AlignedFace) -> F32Array | None:
    """How much of the detail that is finer than the crop's stays as it is in the photo.

    Returns:
        (S, S) float32 in [0, 1], zero on the face; None where nothing is kept, as of a photo that was itself the crop.
    """
    span_px = float(abs(np.linalg.det(aligned.affine[:, :2]))) ** -0.5
    share = float(_smooth_step(span_px, *_SPAN_PX))
    if aligned.face is None or share == 0:
        return None
    return _beside_the_face(aligned.crop.shape[0]) * np.float32(share)


@lru_cache(maxsize=8)
def _beside_the_face(size_px: int) -> F32Array:
    """(S, S): zero on the face, one on what is around it, smooth between them."""
    (x, y), (half_width, half_height) = _FACE_512
    at = (np.arange(size_px) + 0.5) * (512 / size_px)
    radius = np.hypot((at - x) / half_width, (at[:, None] - y) / half_height)
    beside = _smooth_step(radius, *_FACE_ENDS)
    beside.setflags(write=False)
    return beside


def _smooth_step(value: npt.ArrayLike, low: float, high: float) -> F32Array:
    """0 up to `low`, 1 from `high` on, without a corner between."""
    ramp = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)
