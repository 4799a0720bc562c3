"""The arrays of a picture: 8 or 16 bits a sample."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from service.core.types import U8Image

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


_BAND_ROWS = 256


def as_samples(array: npt.ArrayLike | Image.Image) -> Samples:
    """A contiguous array of 8 or 16 bits, without a copy where it is one already; a new one of a Pillow picture.

    Raises:
        ValueError: The array has another dtype.
    """
    samples = _of_pillow(array) if isinstance(array, Image.Image) else np.ascontiguousarray(np.asarray(array))
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


def writable(samples: Samples) -> Samples:
    """The same array, to be written to by its last holder; a copy where its memory cannot be written."""
    try:
        samples.setflags(write=True)
    except ValueError:  # NumPy's answer where the memory belongs to an immutable object
        return samples.copy()
    return samples


def _of_pillow(image: Image.Image) -> npt.NDArray[np.generic]:
    """The samples of a Pillow picture, in bands: Pillow hands out a copy, and a small one costs fewer page faults."""
    first = np.asarray(image.crop((0, 0, image.width, min(1, image.height))))
    samples = np.empty((image.height, *first.shape[1:]), first.dtype)
    for top in range(0, image.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, image.height)
        samples[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return samples
