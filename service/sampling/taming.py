"""What is tried with a crop that an estimator makes nothing of: less colour, or less of its finest detail.

Newspaper screens, scan lines, oversharpened edges and walls in colours of paint lie outside of what estimators were
trained on, and some answer with blots as bright as the picture can be. The same face with a third of its colour, or
smoothed a little, is an ordinary one. Scan lines, screens and noise of single pixels may also be left standing, since
every degradation of the training is coarser; then the flow paints bands on them. Smoothed, they are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import cv2
import numpy as np
import numpy.typing as npt

from service.core.colour import coarse_shift
from service.core.face_ellipse import around_face, face_luma, half_axes_away
from service.core.types import F32Array, U8Image

_COLOUR = 1 / 3
_SIGMAS_512_PX = (1.0, 1.5, 3.0)  # of a crop of 512 pixels a side

_LOW, _HIGH = np.array([0.25, 0.5, 0.25], np.float32), np.array([-0.25, 0.5, -0.25], np.float32)
_WAVES = ((_LOW, _HIGH), (_HIGH, _LOW), (_HIGH, _HIGH))  # two to four pixels long
_SHARE = 25  # percentile: that part of a face is plain skin
_LOOKED_AT = 4  # one pixel of so many, drawn once: in a grid they would keep time with screens


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with estimates.

    Attributes:
        astray: Places of those that are coarsely another picture than their crop.
        rough: Places of the others on which noise or a screen was left standing.
    """

    astray: Sequence[int]
    rough: Sequence[int]

    @property
    def places(self) -> list[int]:
        """All of them, in order."""
        return sorted((*self.astray, *self.rough))

    @classmethod
    def of(
        cls, pictures: F32Array, crops: Sequence[U8Image], max_shift: float | None, max_roughness: float | None
    ) -> Faults:
        """Look at posterior means (B, S, S, 3) beside their crops; where there is no limit, nothing is beyond it."""
        astray, rough = [], []
        for place, (picture, crop) in enumerate(zip(pictures, crops, strict=True)):
            if max_shift is not None and coarse_shift(picture, crop) > max_shift:
                astray.append(place)
            elif max_roughness is not None and roughness(picture) > max_roughness:
                rough.append(place)
        return cls(astray, rough)


@dataclass(frozen=True, slots=True)
class Tamer:
    """One thing to try.

    Attributes:
        apply: Takes and gives a (S, S, 3) uint8 crop.
        colour: Share of the colour that is left in it, above 0.
    """

    apply: Callable[[U8Image], U8Image]
    colour: float = 1.0

    def applied(self, crops: Sequence[U8Image]) -> list[U8Image]:
        """The crops, tamed."""
        return [self.apply(crop) for crop in crops]


def roughness(picture: F32Array) -> float:
    """How much of the finest detail an estimate has left on the skin: the waves of the smoothest quarter of a face.

    A face has such detail at lashes and hairs; screens, scan lines and noise of single pixels have it everywhere.

    Args:
        picture: (S, S, 3) float32 RGB, a posterior mean, in [0, 1].

    Returns:
        Of waves along, across and both the largest, in the picture's range.
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


def recoloured(picture: F32Array, colour: float) -> F32Array:
    """A (S, S, 3) picture in [0, 1] of a crop that had that share of its colour, with all of it; clipped."""
    if colour == 1.0:
        return picture
    return np.asarray(_with_colour(picture, 1 / colour), np.float32).clip(0, 1)


def _with_colour(picture: U8Image | F32Array, share: float) -> cv2.typing.MatLike:
    """The picture with its colours nearer to grey of their brightness, or, by more than 1, further from it."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(picture, share, grey, 1 - share, 0)


def _with_less_colour(crop: U8Image) -> U8Image:
    return np.asarray(_with_colour(crop, _COLOUR), np.uint8)


def _smoothed(crop: U8Image, sigma_512_px: float) -> U8Image:
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma_512_px * crop.shape[0] / 512), np.uint8)


SMOOTHERS = tuple(Tamer(partial(_smoothed, sigma_512_px=sigma)) for sigma in _SIGMAS_512_PX)
"""For a crop whose finest detail was left standing, in the order in which they are tried."""

TAMERS = (Tamer(_with_less_colour, _COLOUR), *SMOOTHERS)
"""For one that came back as another picture."""
