"""The arrays of a picture: 8 or 16 bits a sample."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from service.core.types import U8Image

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def as_samples(array: npt.ArrayLike | Image.Image) -> Samples:
    """A contiguous array of 8 or 16 bits, without a copy where it is one already; also of a Pillow picture.

    Raises:
        ValueError: The array has another dtype.
    """
    samples = np.ascontiguousarray(np.asarray(array))
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    if samples.dtype == np.uint16:
        return samples.astype(np.uint16, copy=False)
    raise ValueError(f"8 or 16 bits a sample are needed, got {samples.dtype}")


def to_8bit(samples: Samples) -> U8Image:
    """The picture with 8 bits a sample, rounded: 65535 becomes 255."""
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    return cv2.convertScaleAbs(samples, alpha=1 / 257).astype(np.uint8, copy=False)


def read_only(samples: Samples) -> Samples:
    """The same array, guarded against writing: it will be shared."""
    samples.setflags(write=False)
    return samples
