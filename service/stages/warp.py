"""Anti-aliased affine resampling, shared by align (photo -> crop) and paste (crop -> photo).

Coordinates are those of pixel centres: (0, 0) is the middle of the first pixel, and a picture of W x H pixels spans
-0.5 to W - 0.5 and -0.5 to H - 0.5. Enlarging a picture by f therefore maps x to (x + 0.5) f - 0.5.
"""

from __future__ import annotations

import math
from typing import TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

_LOBES = 3  # of the kernel of the low pass, as in Lanczos' resampling
_SMOOTH_FROM = 1.1  # up to here the cubic kernel alone is nearer to the ideal low pass
_FINE, _FINEST = 3, 15  # odd, so that the source's pixels are on the finer grid, too
_FINE_FROM = 2.5  # smaller enlargements are as fast by the cubic kernel at every pixel
_FINE_FROM_8BIT = 1.5  # such a grid is small enough for caches
_OBLIQUE = 0.005  # sine: 0.3 degrees
_MIRRORED = cv2.BORDER_REFLECT_101
# Beside antialiased Lanczos on photographs, boxes of as many pixels as the map shrinks by keep half of the detail.
_BOX_SHRINK = 2.5

F64Matrix = npt.NDArray[np.float64]
Picture = TypeVar("Picture", bound=npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.float32])


def scaling(scale_x: float, scale_y: float) -> F64Matrix:
    """(2, 3) map of pixel centres when a picture is resized by these factors."""
    return np.array([[scale_x, 0.0, (scale_x - 1) / 2], [0.0, scale_y, (scale_y - 1) / 2]])


def translation(x: float, y: float) -> F64Matrix:
    """(2, 3) map that adds (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def compose(outer: F64Matrix, inner: F64Matrix) -> F64Matrix:
    """(2, 3) map that applies `inner`, then `outer`."""
    (a, b, x), (c, d, y) = outer.tolist()
    (e, f, u), (g, h, v) = inner.tolist()
    return np.array(
        [[a * e + b * g, a * f + b * h, a * u + b * v + x], [c * e + d * g, c * f + d * h, c * u + d * v + y]]
    )


def invert(affine: F64Matrix) -> F64Matrix:
    """Inverse of a (2, 3) map.

    Raises:
        ValueError: The map is singular or not finite.
    """
    (a, b, x), (c, d, y) = affine.tolist()
    determinant = a * d - b * c
    if not math.isfinite(determinant) or abs(determinant) < 1e-18:
        raise ValueError("the affine map cannot be inverted")
    inverse: F64Matrix = np.array([[d, -b, b * y - d * x], [-c, a, c * x - a * y]]) / determinant
    return inverse


def bounds(affine: F64Matrix, width_px: float, height_px: float) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a whole picture of this size (pixel borders included) after an affine map."""
    (a, b, x), (c, d, y) = affine.tolist()
    corners = [(u, v) for u in (-0.5, width_px - 0.5) for v in (-0.5, height_px - 0.5)]
    xs = [a * u + b * v + x for u, v in corners]
    ys = [c * u + d * v + y for u, v in corners]
    return min(xs), min(ys), max(xs), max(ys)


def warp(source: Picture, affine: F64Matrix, width_px: int, height_px: int) -> Picture:
    """Resample a picture by an affine map, reading only the part of `source` that is needed.

    Where the map shrinks by more than a little, the source is averaged over whole-pixel boxes, as large as leave the
    target its detail, and smoothed by Lanczos' kernel, so that detail finer than the target's pixels turns grey instead
    of into false patterns. The interpolation is cubic. Where the map enlarges by much, the source is first enlarged
    without turning it, and sharpened by what linear interpolation on the finer grid takes away: that is nearer to
    Lanczos' kernel than a cubic one at every pixel. Beyond the source's border its mirror image is used.

    Args:
        source: (H, W) or (H, W, C), uint8, uint16 or float32.
        affine: (2, 3) source pixel centres to target pixel centres.
        width_px: Width of the result.
        height_px: Height of the result.

    Returns:
        (height_px, width_px) or (height_px, width_px, C) of the source's dtype.

    Raises:
        ValueError: The map is singular, or the target lies wholly outside the source.
    """
    inverse = invert(affine)
    shrink = math.sqrt(abs(float(np.linalg.det(inverse[:, :2]))))
    left, top, right, bottom = bounds(inverse, width_px, height_px)
    box = max(1, math.ceil(shrink / _BOX_SHRINK))
    smooth = _low_pass(shrink / box) if shrink > _SMOOTH_FROM else None
    margin = (2 if smooth is None else 2 + len(smooth) // 2) * box + 2
    x0, x1 = _span(left, right, margin, box, source.shape[1])
    y0, y1 = _span(top, bottom, margin, box, source.shape[0])
    part = _at_least_two_pixels(source[y0:y1, x0:x1])
    box = min(box, part.shape[0] // 2, part.shape[1] // 2)
    placed = compose(affine, translation(x0, y0))
    if box > 1:
        rows, columns = -(-part.shape[0] // box), -(-part.shape[1] // box)
        lacking = rows * box - part.shape[0], columns * box - part.shape[1]
        whole = part if lacking == (0, 0) else cv2.copyMakeBorder(part, 0, lacking[0], 0, lacking[1], _MIRRORED)
        part = _same(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), source)
        placed = compose(placed, scaling(box, box))
    flags, oblique = cv2.INTER_CUBIC, _is_oblique(affine)
    if smooth is not None:
        part = _same(cv2.sepFilter2D(part, -1, smooth, smooth, borderType=_MIRRORED), source)
    elif shrink * (_FINE_FROM_8BIT if source.dtype == np.uint8 and oblique else _FINE_FROM) < 1:
        part, fine = _finer(part, 1 / shrink, sharpen=oblique)
        placed = compose(placed, np.array([[1 / fine, 0, 0], [0, 1 / fine, 0]]))
        flags = cv2.INTER_LINEAR
    size = (width_px, height_px)
    return _same(cv2.warpAffine(part, placed, size, flags=flags, borderMode=_MIRRORED), source)


def _at_least_two_pixels(part: Picture) -> Picture:
    """A row or column alone is doubled: its mirror image is itself, and OpenCV's cubic warp never ends with one."""
    for axis in (0, 1):
        if part.shape[axis] == 1:
            part = _same(np.repeat(part, 2, axis), part)
    return part


def _low_pass(shrink: float) -> npt.NDArray[np.float64]:
    """(2 N + 1,) symmetric kernel that leaves what pixels larger by `shrink` can hold; its sum is 1."""
    reach = math.ceil(_LOBES * shrink) - 1
    at = np.arange(-reach, reach + 1) / shrink
    kernel: npt.NDArray[np.float64] = np.sinc(at) * np.sinc(at / _LOBES)
    kernel /= kernel.sum()
    return kernel


def _is_oblique(affine: F64Matrix) -> bool:
    """Whether rows of the target lie across those of the source, so that it meets a finer grid at all places alike.

    Where they do not, linear interpolation takes more away here and less there, and nothing where the grids agree.
    """
    along, across = abs(affine[0, :2]) / np.hypot(*affine[0, :2])
    return bool(min(along, across) > _OBLIQUE)


def _finer(part: Picture, enlarge: float, *, sharpen: bool) -> tuple[Picture, int]:
    """A picture on a grid `n` times as fine, for linear interpolation, from its first to its last pixel; and `n`."""
    fine = min(max(_FINE, 2 * int(enlarge / 2) + 1), _FINEST)
    if sharpen:
        edge = (float(np.sinc(1 / (2 * fine))) ** -2 - 1) / 4  # restores the finest waves, which are two pixels long
        kernel = np.array([-edge, 1 + 2 * edge, -edge])
        part = _same(cv2.sepFilter2D(part, -1, kernel, kernel, borderType=_MIRRORED), part)
    larger = cv2.resize(part, None, fx=fine, fy=fine, interpolation=cv2.INTER_CUBIC)
    around = fine // 2  # of the first and the last pixel, where nothing is known of what is beyond
    return _same(larger[around:-around, around:-around], part), fine


def _span(low: float, high: float, margin: int, box: int, size_px: int) -> tuple[int, int]:
    """First and last + 1 index of the source along one axis, on a grid of `box` that is the same for every target."""
    if not (math.isfinite(low) and math.isfinite(high)) or high < -0.5 or low > size_px - 0.5:
        raise ValueError("the area to resample lies outside the picture")
    first = max(0, math.floor(max(low, -1.0)) - margin)
    last = math.ceil(min(high, float(size_px))) + margin + 1
    return first - first % box, min(size_px, -(-last // box) * box)


def _same(result: cv2.typing.MatLike, source: Picture) -> Picture:
    return cast("Picture", np.asarray(result).astype(source.dtype, copy=False))
