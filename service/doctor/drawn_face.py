"""A photo for trying out an installation that no file and no person is needed for: a face, drawn."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np

_SIDE_PX = 320
_BLUR_SIGMA_PX = 2.0

_Colour: TypeAlias = tuple[int, int, int]
_Ellipse: TypeAlias = tuple[tuple[int, int], tuple[int, int], _Colour]

# Centre, half axes and BGR colour in an image of 320 x 320, what is behind first.
_BACKGROUND: _Colour = (200, 205, 210)
_EYES: tuple[_Ellipse, ...] = tuple(
    part
    for x in (132, 188)
    for part in (
        ((x, 150), (14, 7), (245, 245, 245)),
        ((x, 150), (6, 6), (60, 40, 30)),
        ((x, 134), (17, 4), (70, 60, 55)),
    )
)
_FACE: tuple[_Ellipse, ...] = (
    ((160, 150), (82, 108), (60, 50, 45)),
    ((160, 270), (40, 60), (150, 180, 215)),
    ((160, 168), (68, 88), (165, 195, 230)),
    *_EYES,
    ((160, 180), (9, 14), (140, 170, 210)),
    ((160, 190), (11, 5), (110, 140, 190)),
    ((160, 214), (24, 8), (90, 90, 190)),
)


def face_png() -> bytes:
    """One blurred face, 320 x 320 pixels, that the detector finds; the same bytes each time."""
    image = np.full((_SIDE_PX, _SIDE_PX, 3), _BACKGROUND, np.uint8)
    for centre, half_axes, colour in _FACE:
        cv2.ellipse(image, centre, half_axes, 0, 0, 360, colour, cv2.FILLED, cv2.LINE_AA)
    blurred = cv2.GaussianBlur(image, (0, 0), _BLUR_SIGMA_PX)
    return bytes(cv2.imencode(".png", blurred)[1])
