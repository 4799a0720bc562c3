"""Enlarge: a photo larger than it was, its alpha with it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from service.core.types import Background, F32Array
from service.stages.samples import Samples, as_samples, read_only

_BAND_PX = 512 * 512  # of a result with alpha, worked on at once
_BAND_ROWS = 64
_LEAST_SEEN = 0.25  # levels of alpha: below, nothing is seen of a pixel
_OPAQUE_WITHIN = 1e-4  # of one: sums of weights and alpha in float32 are nearer to it
_LANCZOS_REACH_PX = 4


def enlarged(
    pixels: Samples, alpha: Samples | None, upscale: float, background: Background
) -> tuple[Samples, Samples | None]:
    """Resize a photo with the borders of first and last pixel kept in place.

    A transparent pixel lends its colour to none that are seen, and keeps it where nothing is.

    Args:
        pixels: (H, W, 3).
        alpha: (H, W) of the same dtype, or None.
        upscale: Size of the result over the size of the photo, above 1.
        background: How.

    Returns:
        A new array of pixels, and one of alpha that is read-only.
    """
    height, width = pixels.shape[:2]
    size, method = (round(width * upscale), round(height * upscale)), _method(background)
    canvas = as_samples(cv2.resize(pixels, size, interpolation=method))
    if alpha is None:
        return canvas, None
    _weigh_by_alpha(canvas, pixels, alpha, background)
    return canvas, read_only(as_samples(cv2.resize(alpha, size, interpolation=method)))


def _weigh_by_alpha(canvas: Samples, pixels: Samples, alpha: Samples, background: Background) -> None:
    """Mend an enlarged photo in place where opaque and transparent pixels meet.

    There colours are resized times alpha, and divided by it again, in bands of rows. All others stay as they are: where
    everything around is opaque both are the same, and where nothing is seen there is no alpha to divide by.
    """
    (height, width), source_rows = canvas.shape[:2], len(pixels)
    top_level = np.float32(np.iinfo(canvas.dtype).max)
    band_rows = max(1, min(_BAND_ROWS, _BAND_PX // width))
    for first in range(0, height, band_rows):
        band = canvas[first : first + band_rows]
        rows, weights = _row_weights(first, len(band), source_rows / height, background)
        rows = np.clip(rows, 0, source_rows - 1)
        opacity = alpha[rows, :, None] / top_level
        if opacity.min() == 1 or not opacity.any():
            continue
        weighed = np.concatenate([pixels[rows] * opacity, opacity], axis=2)
        wide = np.asarray(cv2.resize(weighed, (width, len(rows)), interpolation=_method(background)))
        resized = (weights @ wide.reshape(len(rows), -1)).reshape(len(band), width, 4)
        share = resized[:, :, 3:]
        mixed = (share > _LEAST_SEEN / top_level) & (np.abs(share - 1) > _OPAQUE_WITHIN)
        colours = resized[:, :, :3] / np.where(mixed, share, 1)
        np.copyto(band, np.rint(np.clip(colours, 0, top_level)), where=mixed, casting="unsafe")


def _row_weights(first: int, count: int, step: float, background: Background) -> tuple[npt.NDArray[np.intp], F32Array]:
    """What `cv2.resize` makes rows `first` and on of: (N,) rows of the source, also beyond it, and (count, N) weights.

    OpenCV resizes whole pictures only: a band of one would begin between two pixels.
    """
    centres = (np.arange(first, first + count)[:, None] + 0.5) * step - 0.5
    reach_px = _LANCZOS_REACH_PX if background is Background.LANCZOS else 1
    rows = np.arange(int(np.floor(centres[0, 0])) - reach_px + 1, int(np.floor(centres[-1, 0])) + reach_px + 1)
    away = rows - centres
    if background is Background.LANCZOS:
        weights = np.sinc(away) * np.sinc(away / reach_px) * (np.abs(away) < reach_px)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        weights = np.maximum(0, 1 - np.abs(away))
    return rows, weights.astype(np.float32)


def _method(background: Background) -> int:
    return cv2.INTER_LANCZOS4 if background is Background.LANCZOS else cv2.INTER_LINEAR
