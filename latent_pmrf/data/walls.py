"""Walls: surroundings of a face in one colour of paint or light, which photographs of people hardly ever have.

A network that never saw them pulls such a colour toward those that it knows, and the face's with it.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

U8Image = npt.NDArray[np.uint8]

# The head of an aligned crop (FFHQ's five points), in shares of its side.
_CENTRE = (0.5, 0.53)
_RADII = (0.3, 0.42)


@dataclass(frozen=True, slots=True)
class Wall:
    """One drawn wall.

    Attributes:
        colour: Red, green and blue in [0, 255].
        texture: Share of the photograph's own brightness that is left in it: 0 is paint all over, 1 coloured light.
        size: Of the head that stands before it, 1 is that of the aligned crop.
        softness: Of the head's edge, in shares of its radius.
    """

    colour: tuple[float, float, float]
    texture: float
    size: float
    softness: float

    def behind(self, image: U8Image) -> U8Image:
        """An aligned RGB crop (S, S, 3) uint8 with the wall outside of the head, same shape."""
        y, x = np.ogrid[: image.shape[0], : image.shape[1]]
        across, down = ((x / image.shape[1] - _CENTRE[0]) / _RADII[0], (y / image.shape[0] - _CENTRE[1]) / _RADII[1])
        beyond = np.sqrt(across**2 + down**2).astype(np.float32) - np.float32(self.size)
        share = np.clip(beyond / np.float32(self.softness) + 0.5, 0, 1)[..., None]
        brightness = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 255
        wall = np.asarray(self.colour, np.float32) * (1 - self.texture + self.texture * brightness)
        return np.rint(image + share * (wall - image)).astype(np.uint8)


def draw_wall(rng: np.random.Generator) -> Wall:
    """Draw one wall: any hue, at least half saturated, from dark to as bright as can be."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.5, 1), rng.uniform(0.2, 1))
    return Wall(
        colour=(255 * red, 255 * green, 255 * blue),
        texture=rng.random(),
        size=rng.uniform(0.9, 1.3),
        softness=rng.uniform(0.02, 0.3),
    )
