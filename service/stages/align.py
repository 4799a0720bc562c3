"""Align: a photo and its faces -> one square crop per face, in the position the networks were trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from service.core.errors import InvalidOption
from service.core.types import AlignedFace, DecodedImage, Face, Tone
from service.stages.containers.png_chunks import is_pq
from service.stages.samples import as_samples, to_8bit
from service.stages.tone import stretched, tone_of
from service.stages.warp import F64Matrix, scaling, warp

#: Landmarks in a 512 x 512 crop (FFHQ): x, y of pixel centres, the centre of the first pixel being (0, 0).
TEMPLATE_512: tuple[tuple[float, float], ...] = (
    (192.98, 239.95),
    (318.90, 240.19),
    (256.63, 314.02),
    (201.26, 371.41),
    (313.09, 371.15),
)

_SQUARE_TOLERANCE = 0.02
_LEAST_SPREAD_PX = 1e-3
_INLIER_FLOOR = 0.01  # residuals below this share of the target's spread are landmark noise, whatever the median is


def template(size_px: int) -> npt.NDArray[np.float64]:
    """(5, 2) landmarks in a crop of `size_px`, x and y of pixel centres."""
    return (np.array(TEMPLATE_512) + 0.5) * (size_px / 512) - 0.5


def estimate_similarity(source: npt.ArrayLike, target: npt.ArrayLike) -> F64Matrix:
    """Rotation, uniform scale and shift that bring `source` to `target`, unharmed by a minority of wrong points.

    Every pair of points proposes a map; the one with the least median of squared residuals wins (Rousseeuw, 1984), and
    a least-squares fit over its inliers gives the result. No random numbers are involved.

    Args:
        source: (N, 2) points, N at least 2.
        target: (N, 2) points in the same order.

    Returns:
        (2, 3) float64 map of source to target.

    Raises:
        ValueError: Wrong shapes, a value that is not finite, or points that coincide.
    """
    points, goals = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or points.shape != goals.shape or len(points) < 2:
        raise ValueError(f"two equal sets of at least two points are needed, got {points.shape} and {goals.shape}")
    if not (np.isfinite(points).all() and np.isfinite(goals).all()):
        raise ValueError("the points are not finite")
    # As complex numbers a similarity is z -> scale * z + shift.
    z, w = points @ (1, 1j), goals @ (1, 1j)
    spread = float(np.abs(w - w.mean()).max())
    if float(np.abs(z - z.mean()).max()) < _LEAST_SPREAD_PX or spread < _LEAST_SPREAD_PX:
        raise ValueError("the points coincide")
    first, second = np.triu_indices(len(z), k=1)
    usable = np.abs(z[second] - z[first]) > 1e-6 * np.abs(z - z.mean()).max()
    first, second = first[usable], second[usable]
    scale = (w[second] - w[first]) / (z[second] - z[first])
    shift = w[first] - scale * z[first]
    residuals = np.abs(scale[:, None] * z + shift[:, None] - w)  # (pairs, N)
    # A proposal always fits its own two points, so with three points the median would tell nothing.
    rank = max(len(z) // 2, min(2, len(z) - 1))
    medians = np.sort(residuals, axis=1)[:, rank]
    best = int(np.argmin(medians))
    deviation = 1.4826 * (1 + 5 / max(1, len(z) - 2)) * medians[best]
    inliers = residuals[best] <= max(2.5 * deviation, _INLIER_FLOOR * spread)
    return _least_squares(z[inliers], w[inliers])


def align(image: DecodedImage, face: Face, index: int, size_px: int) -> AlignedFace:
    """Cut a face, a detection in its pixels, out of the photo, brought to a template of `size_px` a side.

    Only the part of the photo around a face is read. A crop beyond the photo's border continues with its mirror image.
    One of little range is stretched (`service.stages.tone`), before it is rounded to 8 bits.

    Raises:
        ValueError: The landmarks coincide, are not finite or lie outside the photo.
    """
    return _cut(image, estimate_similarity(face.landmarks_5, template(size_px)), size_px, index, face)


def align_whole(image: DecodedImage, size_px: int) -> AlignedFace:
    """Take the whole photo, of a face in the template's position, as one aligned crop of `size_px` a side.

    A photo that is a little off square fits by its longer side; the strips left over are its mirror image.

    Raises:
        InvalidOption: The sides differ by more than 2 %.
    """
    height, width = image.pixels.shape[:2]
    if abs(width - height) > _SQUARE_TOLERANCE * max(width, height):
        raise InvalidOption(
            f"`aligned` needs a square photo, this one has {width} x {height} pixels",
            hint="send an aligned square crop, or leave `aligned` out so that faces are detected",
            option="aligned",
        )
    factor = size_px / max(width, height)
    affine = scaling(factor, factor)
    affine[:, 2] += (size_px - factor * width) / 2, (size_px - factor * height) / 2
    return _cut(image, affine, size_px, 0, None)


def _least_squares(z: npt.NDArray[np.complex128], w: npt.NDArray[np.complex128]) -> F64Matrix:
    """Closed-form similarity of least squared error (Umeyama, 1991, in the plane)."""
    centred = z - z.mean()
    power = float(np.vdot(centred, centred).real)
    scale = complex(np.vdot(centred, w - w.mean()) / power) if power > 0 else 0j
    if abs(scale) < 1e-9:
        raise ValueError("the points determine no similarity")
    shift = complex(w.mean()) - scale * complex(z.mean())
    return np.array([[scale.real, -scale.imag, shift.real], [scale.imag, scale.real, shift.imag]])


def _cut(image: DecodedImage, affine: F64Matrix, size_px: int, index: int, face: Face | None) -> AlignedFace:
    samples = as_samples(warp(image.pixels, affine, size_px, size_px))
    tone = tone_of(samples, is_pq=is_pq(image.png_chunks))
    crop, beyond = (to_8bit(samples), None) if tone == Tone() else stretched(samples, tone)
    crop.setflags(write=False)
    return AlignedFace(index, face, crop, affine, tone, beyond)
