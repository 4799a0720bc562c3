"""Where the five points of an aligned face lie, and the transform that brings points there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64Array = npt.NDArray[np.float64]

REFERENCE_SIZE_PX = 512
FFHQ_512: F64Array = np.array(
    ((192.98, 239.95), (318.90, 240.19), (256.63, 314.02), (201.26, 371.41), (313.09, 371.15))
)
"""Left and right eye, nose tip, left and right mouth corner in an aligned face of 512 px (FFHQ)."""
ARCFACE_112: F64Array = np.array(
    ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
)
"""The same points in a face of 112 px as ArcFace takes it (insightface)."""


def similarity(source: F64Array, target: F64Array) -> F64Array:
    """(2, 3) least-squares similarity from (N, 2) points to (N, 2) points."""
    x, y = source.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    system = np.concatenate([np.stack([x, -y, one, zero], axis=1), np.stack([y, x, zero, one], axis=1)])
    a, b, shift_x, shift_y = np.linalg.lstsq(system, target.T.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, shift_x], [b, a, shift_y]])
