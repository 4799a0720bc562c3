"""Screens: the regular patterns that halftone prints, displays and interlaced video lay over a photograph, seeded.

What the blur of a lens or a scanner leaves of a screen is its first harmonic: waves whose swing is largest in middle
tones, for black and white leave a screen nothing to vary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32Image = npt.NDArray[np.float32]

_AMPLITUDE = (0.05, 0.6)
_PERIOD_PX = (2.2, 9.0)


@dataclass(frozen=True, slots=True)
class Screen:
    """One drawn screen.

    Attributes:
        amplitude: Of the waves in middle grey, 1 is from black to white.
        period_px: Length of a wave.
        theta: Direction of the waves in radians.
        crossed: Dots, of waves in both directions, instead of lines.
        phases: Of red, green and blue in radians: all alike in a black screen, apart in one of coloured elements.
    """

    amplitude: float
    period_px: float
    theta: float
    crossed: bool
    phases: tuple[float, float, float]

    def over(self, image: F32Image) -> F32Image:
        """An RGB picture (H, W, 3) float32 in [0, 255] behind the screen, same shape and range."""
        y, x = (np.arange(side, dtype=np.float32) for side in image.shape[:2])
        turn = np.float32(2 * math.pi / self.period_px)
        right, down = turn * np.float32(math.cos(self.theta)), turn * np.float32(math.sin(self.theta))
        waves = np.cos((right * x + down * y[:, None])[..., None] + np.asarray(self.phases, np.float32))
        if self.crossed:
            waves *= np.cos((right * y[:, None] - down * x)[..., None])
        swing = np.sqrt(image * (255 - image))  # 127.5 in the middle
        return np.asarray(np.clip(image + np.float32(self.amplitude) * swing * waves, 0, 255), np.float32)


def draw_screen(rng: np.random.Generator) -> Screen:
    """Draw one screen: amplitude and period uniformly on logarithmic axes, dots or lines, in one colour or three."""
    amplitude, period_px = log_uniform(rng, _AMPLITUDE), log_uniform(rng, _PERIOD_PX)
    theta, first = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
    crossed, coloured = rng.random(2) < 0.5
    others = rng.uniform(0, 2 * math.pi, 2) if coloured else (first, first)
    return Screen(amplitude, period_px, theta, bool(crossed), (first, float(others[0]), float(others[1])))


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """A number between two above 0, drawn uniformly on the logarithmic axis."""
    return float(math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1]))))
