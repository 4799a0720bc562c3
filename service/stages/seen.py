"""Seen: the photo as detector and networks may know it, without the colours that its alpha hides, nor in linear light.

    DecodedImage -> DecodedImage with pixels of alpha 0 filled in, for detect and align; then the faces that can be seen

A file may hold any colour, and any picture, where it is transparent. The photo that faces are pasted into keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from service.core.types import DecodedImage, F32Array, Face
from service.stages.light import as_encoded, is_linear
from service.stages.samples import Samples, as_samples, read_only

_BAND_ROWS = 256  # even
_AROUND_PX = 64  # of what is hidden, that its colours come from; even
_SEEN_SHARE = 0.1  # of the middle of a face: of one with less, nobody would say that it is in the photo


def as_seen(image: DecodedImage) -> DecodedImage:
    """Give pixels of alpha 0 the colours of the nearest ones that are seen, the smoother the further away those are.

    Returns:
        The photo with new pixels, or itself where all are seen; black where none is. Of a photo in linear light they
        have 16 bits, on the curve of sRGB.
    """
    return as_encoded(_without_hidden(image))


def is_seen(image: DecodedImage) -> bool:
    """Whether a photo is as it may be known, as `as_seen` would find without looking at its pixels."""
    return image.alpha is None and not is_linear(image)


def _without_hidden(image: DecodedImage) -> DecodedImage:
    alpha = image.alpha
    if alpha is None or alpha.all():
        return image
    left, top, width, height = cv2.boundingRect((alpha == 0).view(np.uint8))
    rows, columns = (
        slice(max(0, (first - _AROUND_PX) // 2 * 2), first + size + _AROUND_PX)
        for first, size in ((top, height), (left, width))
    )
    filled = _filled(image.pixels[rows, columns], alpha[rows, columns])
    pixels = image.pixels.copy()  # not earlier: filling takes more than the photo does
    pixels[rows, columns] = filled
    return replace(image, pixels=read_only(pixels))


def seen_faces(faces: Sequence[Face], alpha: Samples) -> list[Face]:
    """The faces of which a tenth of the middle is more than transparent by the photo's alpha, (H, W)."""
    return [face for face in faces if (_middle(face, alpha) > 0).mean() >= _SEEN_SHARE]


def _middle(face: Face, alpha: Samples) -> Samples:
    """The inner half of a face's box along both sides, one pixel at least."""
    left, top, right, bottom = face.box
    height, width = alpha.shape
    x0, y0 = min(int((3 * left + right) / 4), width - 1), min(int((3 * top + bottom) / 4), height - 1)
    return alpha[y0 : max(y0 + 1, int((top + 3 * bottom) / 4)), x0 : max(x0 + 1, int((left + 3 * right) / 4))]


def _filled(pixels: Samples, alpha: Samples) -> Samples:
    """Pixels (H, W, 3) with those of alpha 0 filled in."""
    height, width = alpha.shape
    colours, weight = _halved(pixels, alpha)
    coarse = as_samples(np.rint(_spread(colours, weight)).astype(pixels.dtype))
    filled = as_samples(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
    cv2.copyTo(pixels, (alpha > 0).view(np.uint8), filled)
    return filled


def _halved(pixels: Samples, alpha: Samples) -> tuple[F32Array, F32Array]:
    """Colours times alpha, (h, w, 3), and alpha, (h, w), at half the size, rounded up; in bands, for the memory."""
    height, width = alpha.shape
    size = ((width + 1) // 2, (height + 1) // 2)
    colours, weight = np.empty((size[1], size[0], 3), np.float32), np.empty((size[1], size[0]), np.float32)
    for top in range(0, height, _BAND_ROWS):
        opacity = alpha[top : top + _BAND_ROWS].astype(np.float32)
        rows = slice(top // 2, top // 2 + (len(opacity) + 1) // 2)
        colours[rows] = _half(pixels[top : top + _BAND_ROWS] * opacity[:, :, None])
        weight[rows] = _half(opacity)
    return colours, weight


def _spread(colours: F32Array, weight: F32Array) -> F32Array:
    """Colours for the whole of a picture from those places that have any weight.

    Where there is none, the picture at half the size has a colour, or that at a quarter (pull-push, Gortler et al.,
    1996).

    Args:
        colours: (h, w, 3), times `weight`.
        weight: (h, w), not below 0.
    """
    height, width = weight.shape
    known = weight > 0
    present = np.asarray(colours / np.where(known, weight, 1)[:, :, None], np.float32)
    if known.all() or max(height, width) == 1:
        return present
    coarse = _spread(_half(colours), _half(weight))
    smooth = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    np.copyto(smooth, present, where=known[:, :, None])
    return smooth


def _half(array: F32Array) -> F32Array:
    """Half the size, rounded up, by means."""
    height, width = array.shape[:2]
    half = cv2.resize(array, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(half, np.float32)
