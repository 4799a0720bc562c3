"""Light: photos whose samples are in proportion to light, brought onto the curve that networks know, and back.

DecodedImage in linear light -> the same on the curve of sRGB, for detect and align
crop on that curve -> linear light, for paste
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from service.core.types import DecodedImage, F32Array
from service.stages.containers import icc
from service.stages.containers.png_colour import states_linear
from service.stages.samples import read_only

_BAND_ROWS = 64  # NumPy makes indices of eight bytes of them
_SLOPE, _SLOPE_ENDS = 12.92, 0.04045
_POWER, _SHIFT = 2.4, 0.055


def is_linear(image: DecodedImage) -> bool:
    """Whether the photo's file states that its samples are in proportion to light."""
    stated = states_linear(image.png_chunks)
    if stated is None:
        return image.icc_profile is not None and icc.is_linear(image.icc_profile)
    return stated


def as_encoded(image: DecodedImage) -> DecodedImage:
    """The photo with samples of 16 bits on the curve of sRGB if it is in linear light, else the photo itself."""
    if not is_linear(image):
        return image
    table = _table(image.pixels.dtype)
    pixels = np.empty(image.pixels.shape, np.uint16)
    for top in range(0, len(pixels), _BAND_ROWS):
        band = slice(top, top + _BAND_ROWS)
        np.take(table, image.pixels[band], out=pixels[band])
    return replace(image, pixels=read_only(pixels))


def in_light(encoded: F32Array) -> F32Array:
    """Light of float32 samples on the curve of sRGB; 0 is 0 and 1 is 1, and values beyond follow."""
    curved = (np.maximum(encoded, 0) + np.float32(_SHIFT)) / np.float32(1 + _SHIFT)
    light: F32Array = np.where(encoded <= _SLOPE_ENDS, encoded / np.float32(_SLOPE), curved ** np.float32(_POWER))
    return light


def on_curve(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Samples on the curve of sRGB for light, both 0 to 1."""
    curved = (1 + _SHIFT) * light ** (1 / _POWER) - _SHIFT
    return np.where(light <= _SLOPE_ENDS / _SLOPE, light * _SLOPE, curved)


def _table(dtype: np.dtype[np.uint8] | np.dtype[np.uint16]) -> npt.NDArray[np.uint16]:
    """Samples of 16 bits on the curve for all samples of linear light."""
    encoded = on_curve(np.linspace(0, 1, np.iinfo(dtype).max + 1))
    table: npt.NDArray[np.uint16] = np.rint(encoded * np.iinfo(np.uint16).max).astype(np.uint16)
    return table
