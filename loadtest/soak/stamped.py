"""Photos that say which they are, before and after: a number in black and white squares along the upper edge."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_BITS = 24
_SQUARE_PX = 8


def stamped(picture: npt.NDArray[np.uint8], number: int) -> bytes:
    """A PNG file of the picture with a number.

    Args:
        picture: (H, W, 3) uint8 RGB, at least 192 pixels wide, without a face at its upper edge.
        number: From 0 to 2^24 - 1.
    """
    marked = picture.copy()
    for bit in range(_BITS):
        left = bit * _SQUARE_PX
        marked[:_SQUARE_PX, left : left + _SQUARE_PX] = 255 if number >> bit & 1 else 0
    buffer = io.BytesIO()
    Image.fromarray(marked).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def number_of(image: bytes) -> int:
    """The number of a photo, restored or not."""
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L"))
    middles = pixels[_SQUARE_PX // 2, _SQUARE_PX // 2 : _BITS * _SQUARE_PX : _SQUARE_PX]
    return sum(1 << bit for bit, value in enumerate(middles) if value > 127)
