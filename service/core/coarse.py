"""How far a picture lies from another at the scale of a twelfth of a face: what no restoration moves by much."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from service.core.colour import CELLS, coarse_cells, with_colour_of
from service.core.types import F32Array, U8Image

_BLUR_CELLS = 1.0  # sigma
_REACH = 0.82  # of what is pasted of a crop, as a superellipse: beyond, the photo shows


def coarse_shift(restored: F32Array, crop: U8Image) -> float:
    """The largest difference that is left of two crops in the same coarse colour when their detail is smoothed away.

    Every face gets its photo's (`with_colour_of`). A colour that went astray alone is mended by it; an edge between two
    of them can come out darker or brighter than either picture was.

    Args:
        restored: (S, S, 3) float32 RGB, in [0, 1] or a little beyond.
        crop: (S, S, 3) uint8 RGB, what it was made of.

    Returns:
        Of any channel at any place that is pasted, in [0, 1] or a little beyond; not a number if a value is none.
    """
    apart = with_colour_of(coarse_cells(restored), crop) - coarse_cells(crop) / np.float32(255)
    smooth = cv2.GaussianBlur(apart, (0, 0), _BLUR_CELLS, borderType=cv2.BORDER_REFLECT)
    return float(np.abs(np.asarray(smooth)[_pasted()]).max())


@cache
def _pasted() -> npt.NDArray[np.bool_]:
    at = np.abs((np.arange(CELLS) + 0.5) / CELLS * 2 - 1) ** 4
    return np.asarray(at + at[:, None] <= _REACH**4)
