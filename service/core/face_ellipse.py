"""Where a face is in a crop: an ellipse from the brows to the chin and between the ears."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

# Middle and half axes, of a 512 x 512 crop.
_MIDDLE_512, _HALF_512 = (256.0, 290.0), (140.0, 190.0)


def half_axes_away(size_px: int, every_px: int = 1) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far columns and rows lie from the middle of the face, in its half axes: their squares are 1 at its edge.

    Args:
        size_px: Side of the crop.
        every_px: Step from one column or row to the next that is asked about.
    """
    at = (np.arange(0, size_px, every_px) + 0.5) * (512 / size_px)
    across, down = (np.abs(at - middle) / half for middle, half in zip(_MIDDLE_512, _HALF_512, strict=True))
    return across, down


@cache
def around_face(size_px: int) -> tuple[slice, slice]:
    """Rows and columns of the least rectangle that holds the face.

    Args:
        size_px: Side of the crop.
    """
    across, down = half_axes_away(size_px)
    return _inside(down), _inside(across)


def _inside(away: npt.NDArray[np.float64]) -> slice:
    """Where an axis meets the ellipse."""
    first, *_, last = np.flatnonzero(away <= 1).tolist()
    return slice(first, last + 1)
