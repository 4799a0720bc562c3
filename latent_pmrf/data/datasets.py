"""Training pairs, and batches that are a pure function of (seed, step).

Because a batch depends on nothing but the seed and the step, a run that is killed and resumed sees what an
uninterrupted run would have seen: no sampler state has to be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from latent_pmrf.data.degradation import DegradationRange, draw_degradation, resize, without_colour
from latent_pmrf.data.photographs import U8Image
from latent_pmrf.data.walls import draw_wall


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of a clean photograph before it is degraded.

    Attributes:
        flip: Mirror half of the photographs.
        rotate_deg: Largest rotation either way.
        scale: Largest relative change of size either way.
        shift: Largest translation either way, relative to the side.
        wall_probability: Chance of a `Wall` behind the face.
    """

    flip: bool = True
    rotate_deg: float = 4.0
    scale: float = 0.05
    shift: float = 0.02
    wall_probability: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what turns a photograph inside out."""
        if self.rotate_deg < 0 or self.shift < 0 or not 0 <= self.scale < 1:
            raise ValueError(
                f"augmentation takes rotate_deg and shift from 0 and scale from 0 to below 1, not {self.rotate_deg}, "
                f"{self.shift} and {self.scale}"
            )
        if not 0 <= self.wall_probability <= 1:
            raise ValueError(f"wall_probability must be from 0 to 1, not {self.wall_probability}")


class FacePairs:
    """Draws (degraded, clean) pairs.

    Args:
        images: Clean (S, S, 3) uint8 photographs of any size; what is done to those smaller than `size_px` is in
            `DegradationRange.for_coarse`.
        size_px: Side of the pairs.
        ranges: Degradations to draw from.
        augmentation: Changes of the clean photograph, or None.
    """

    def __init__(
        self,
        images: Sequence[U8Image],
        size_px: int,
        ranges: DegradationRange,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.images = images
        self.size_px = size_px
        self.ranges = ranges
        self.augmentation = augmentation

    def clean(self, index: int, rng: np.random.Generator) -> U8Image:
        """The augmented clean photograph `index` at its stored size."""
        image = self.images[index]
        return image if self.augmentation is None else augment(image, self.augmentation, rng)

    def pair(self, index: int, rng: np.random.Generator) -> tuple[U8Image, U8Image]:
        """One degraded and clean photograph, each (size_px, size_px, 3) uint8."""
        image = self.clean(index, rng)
        side_px = image.shape[0]
        ranges = self.ranges if side_px >= self.size_px else self.ranges.for_coarse(side_px)
        degradation = draw_degradation(ranges, rng)
        hq = resize(image, self.size_px)
        if degradation.gray and ranges.gray_target:
            hq = without_colour(hq)
        return degradation.apply(image, self.size_px), hq

    def batch(self, batch_size: int, rng: np.random.Generator) -> tuple[U8Image, U8Image]:
        """Two (B, size_px, size_px, 3) uint8 arrays, photographs drawn with replacement."""
        pairs = [self.pair(int(index), rng) for index in rng.integers(len(self.images), size=batch_size)]
        return np.stack([lq for lq, _ in pairs]), np.stack([hq for _, hq in pairs])


def augment(image: U8Image, augmentation: Augmentation, rng: np.random.Generator) -> U8Image:
    """Mirror, turn, scale and shift a square photograph about its centre; edges are reflected.

    Without `wall_probability` no random number is spent on it.
    """
    side = image.shape[0]
    if augmentation.wall_probability > 0 and rng.random() < augmentation.wall_probability:
        image = draw_wall(rng).behind(image)
    if augmentation.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    angle = rng.uniform(-augmentation.rotate_deg, augmentation.rotate_deg)
    scale = 1.0 + rng.uniform(-augmentation.scale, augmentation.scale)
    if angle == 0 and scale == 1 and augmentation.shift == 0:
        return image
    centre = (side - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), angle, scale)
    matrix[:, 2] += rng.uniform(-augmentation.shift, augmentation.shift, size=2) * side
    warped = cv2.warpAffine(
        np.ascontiguousarray(image), matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(warped, dtype=np.uint8)
