"""Tone: a crop of little range is stretched for the networks, and what they make of it is brought back into the photo.

The networks saw faces between dark and bright. Of one that is dark, faded or against the light they make out nothing,
and leave smears; stretched, it is an ordinary face to them. The stretch is one straight line for all three channels, so
that colours keep their proportions, and it is undone after everything that is done to the face by itself.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from service.core.face_ellipse import half_axes_away
from service.core.types import AlignedFace, F32Array, Tone, U8Image
from service.stages.light import in_light
from service.stages.samples import Samples

_RANGE_BELOW = 0.38  # of the brightness of a face, 0 to 1; every validation face, severely degraded ones too, has more
_RANGE_WANTED = 0.7  # what less is stretched to
_RANGE_LEAST = 0.02  # below it there is no face
_MOST_GAIN = 12.0  # above, 8 bits leave no more than steps
_TAILS = (0.5, 99.5)  # percentiles between which the range lies
_EVERY_PX = 4


def tone_of(samples: Samples, *, is_pq: bool = False) -> Tone:
    """The stretch that a crop needs, which for most is none.

    Args:
        samples: (S, S, 3) RGB, 8 or 16 bits a sample.
        is_pq: They follow the curve PQ (SMPTE ST 2084), in which faces between dark and bright have half the range:
            each is stretched to what networks know.
    """
    seen = _luma(samples)[_face(samples.shape[0])]
    low, high = (float(value) for value in np.percentile(seen, _TAILS))
    if not _RANGE_LEAST <= high - low < (_RANGE_WANTED if is_pq else _RANGE_BELOW):
        return Tone()
    gain = min(_RANGE_WANTED / (high - low), _MOST_GAIN)
    return Tone(gain, 0.5 - gain * (low + high) / 2)


def stretched(samples: Samples, tone: Tone) -> tuple[U8Image, F32Array | None]:
    """A crop as the networks are to see it, and what does not fit into its 8 bits.

    Args:
        samples: (S, S, 3) RGB, 8 or 16 bits a sample.
        tone: What `tone_of` said of it, other than none.

    Returns:
        (S, S, 3) uint8, and (S, S, 3) float32 in units of the photo, 0 but where it clips; None if it does not.
    """
    unit = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    bright = unit * np.float32(tone.gain) + np.float32(tone.offset)
    kept = bright.clip(0, 1)
    crop = np.rint(kept * 255).astype(np.uint8)
    beyond = (bright - kept) / np.float32(tone.gain)
    return crop, beyond if beyond.any() else None


def in_photo(restored: F32Array, aligned: AlignedFace, *, is_linear: bool = False) -> F32Array:
    """A restored crop in the tone of its photo.

    Args:
        restored: (S, S, 3) RGB as the networks see it, in [0, 1] or a little beyond.
        aligned: What it was made of.
        is_linear: The photo is in linear light.

    Returns:
        (S, S, 3) float32, the same array where there is nothing to undo.
    """
    toned = aligned.tone.undo(restored)
    whole = toned if aligned.beyond is None else np.asarray(cv2.add(toned, aligned.beyond), np.float32)
    return in_light(whole) if is_linear else whole


def _luma(samples: Samples) -> F32Array:
    """Brightness of every fourth pixel of every fourth row, in [0, 1]."""
    sparse = np.ascontiguousarray(samples[::_EVERY_PX, ::_EVERY_PX]).astype(np.float32)
    luma = cv2.cvtColor(sparse / np.float32(np.iinfo(samples.dtype).max), cv2.COLOR_RGB2GRAY)
    return np.asarray(luma, np.float32)


@cache
def _face(size_px: int) -> npt.NDArray[np.bool_]:
    """Which of those pixels lie on the face."""
    across, down = half_axes_away(size_px, _EVERY_PX)
    return across**2 + down[:, None] ** 2 <= 1
