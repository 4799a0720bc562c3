"""Enlarge: a photo larger than it was, its alpha with it."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from service.core.types import Background, F32Array
from service.stages.samples import Samples, as_samples, read_only

_TILE_PX = 256  # of a side of a result with alpha, worked on at once
_KEPT_WEIGHTS = 128  # of tiles along both sides, 0.3 MB each at most
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
    opacity = cv2.resize(alpha, size, interpolation=method)
    if background is Background.LANCZOS:
        _keep_between(opacity, alpha)
    return canvas, read_only(as_samples(opacity))


def _keep_between(opacity: npt.NDArray[np.generic], alpha: Samples) -> None:
    """Bring an enlarged alpha, in place, between the least and the largest around: Lanczos' kernel rings at outlines.

    What is transparent around stays transparent, and what is opaque opaque.
    """
    size, around = opacity.shape[1::-1], np.ones((3, 3), np.uint8)
    for bound, beyond in ((cv2.erode, np.maximum), (cv2.dilate, np.minimum)):
        limit = cv2.resize(bound(alpha, around), size, interpolation=cv2.INTER_NEAREST_EXACT)
        beyond(opacity, limit, out=opacity)


def _weigh_by_alpha(canvas: Samples, pixels: Samples, alpha: Samples, background: Background) -> None:
    """Mend an enlarged photo in place where opaque and transparent pixels meet.

    There colours are resized times alpha, and divided by it again, in tiles. All others stay as they are: where
    everything around is opaque both are the same, and where nothing is seen there is no alpha to divide by.
    """
    (height, width), top_level = canvas.shape[:2], np.float32(np.iinfo(canvas.dtype).max)
    weights = lru_cache(_KEPT_WEIGHTS)(_weights)
    for top in range(0, height, _TILE_PX):
        rows, down = weights(top, height, pixels.shape[0], background)
        for left in range(0, width, _TILE_PX):
            columns, across = weights(left, width, pixels.shape[1], background)
            opacity = alpha[rows[:, None], columns] / top_level  # (N, M)
            if opacity.min() == 1 or not opacity.any():
                continue
            colours = pixels[rows[:, None], columns].transpose(2, 0, 1) * opacity
            *resized, share = down @ np.concatenate([colours, opacity[None]]) @ across.T  # (rows, columns) each
            mixed = (share > _LEAST_SEEN / top_level) & (np.abs(share - 1) > _OPAQUE_WITHIN)
            divisor = np.where(mixed, share, 1)
            for channel, plane in enumerate(resized):
                tile = canvas[top : top + _TILE_PX, left : left + _TILE_PX, channel]
                np.copyto(tile, np.rint((plane / divisor).clip(0, top_level)), where=mixed, casting="unsafe")


def _weights(first: int, size_px: int, source_px: int, background: Background) -> tuple[npt.NDArray[np.intp], F32Array]:
    """What `cv2.resize` makes a tile's rows, or columns, `first` and on of.

    OpenCV resizes whole pictures only: a tile of one would begin between two pixels.

    Returns:
        (N,) rows of the source, the first and the last for those beyond it, and the (count, N) weights.
    """
    count, step = min(_TILE_PX, size_px - first), source_px / size_px
    centres = (np.arange(first, first + count)[:, None] + 0.5) * step - 0.5
    reach_px = _LANCZOS_REACH_PX if background is Background.LANCZOS else 1
    rows = np.arange(int(np.floor(centres[0, 0])) - reach_px + 1, int(np.floor(centres[-1, 0])) + reach_px + 1)
    away = rows - centres
    if background is Background.LANCZOS:
        weights = np.sinc(away) * np.sinc(away / reach_px) * (np.abs(away) < reach_px)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        weights = np.maximum(0, 1 - np.abs(away))
    return rows.clip(0, source_px - 1), weights.astype(np.float32)


def _method(background: Background) -> int:
    return cv2.INTER_LANCZOS4 if background is Background.LANCZOS else cv2.INTER_LINEAR
