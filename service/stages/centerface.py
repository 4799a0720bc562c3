"""CenterFace's tensors: pictures in, candidates out.

The network (Xu et al., 2019, https://arxiv.org/abs/1911.03599) predicts faces as points. On a map with one cell for
each 4 x 4 pixels, `heatmap` peaks at the middle of a face, `scale` is the logarithm of the height and width of its box
in cells, `offset` moves the middle within its cell (y, x), and `landmarks` are five places (y, x) as shares of the box.

Coordinates here are those of pixel borders: 0 is the left border of the first pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from service.core.types import F32Array, U8Image

#: Sides of what the network gets must be multiples of this.
SIDE_MULTIPLE_PX = 32

_CELL_PX = 4
_MAX_LOG_CELLS = 5.5  # a box of 1000 px; the network knows no larger faces, and views are made by this size

Maps = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Possible faces of one picture.

    Attributes:
        boxes: (N, 4) float32 left, top, right, bottom.
        landmarks: (N, 5, 2) float32 x, y of left eye, right eye, nose tip, left and right mouth corner (left as seen).
        scores: (N,) float32 in [0, 1].
    """

    boxes: F32Array
    landmarks: F32Array
    scores: F32Array

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: npt.ArrayLike) -> Candidates:
        """Those of the given rows, in that order."""
        chosen = np.asarray(rows, np.intp)
        return Candidates(self.boxes[chosen], self.landmarks[chosen], self.scores[chosen])

    def replaced(self, rows: npt.NDArray[np.intp], others: Candidates) -> Candidates:
        """The same with others in the place of those rows."""
        changed = Candidates(self.boxes.copy(), self.landmarks.copy(), self.scores.copy())
        changed.boxes[rows] = others.boxes
        changed.landmarks[rows] = others.landmarks
        changed.scores[rows] = others.scores
        return changed

    def mapped(self, affine: npt.NDArray[np.float64]) -> Candidates:
        """The same in another picture's coordinates, by a (2, 3) map; of boxes that it turns, those around them."""
        corners = self.boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]] @ affine[:, :2].T + affine[:, 2]
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        landmarks = self.landmarks @ affine[:, :2].T + affine[:, 2]
        return Candidates(boxes.astype(np.float32), landmarks.astype(np.float32), self.scores)


def join(parts: Sequence[Candidates]) -> Candidates:
    """All candidates of several pictures."""
    nothing = Candidates(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
    every = [nothing, *parts]
    return Candidates(
        np.concatenate([part.boxes for part in every]),
        np.concatenate([part.landmarks for part in every]),
        np.concatenate([part.scores for part in every]),
    )


def to_tensor(pictures: Sequence[U8Image]) -> F32Array:
    """(B, 3, H, W) float32 RGB in [0, 255] of equal (H, W, 3) pictures; the network normalises by itself."""
    height, width = pictures[0].shape[:2]
    tensor = np.empty((len(pictures), 3, height, width), np.float32)
    for row, picture in enumerate(pictures):
        tensor[row] = picture.transpose(2, 0, 1)
    return tensor


def read_maps(maps: Maps, row: int, *, least_score: float, limit: int) -> Candidates:
    """Candidates of one picture of a batch, best first.

    Args:
        maps: The network's outputs: `heatmap` (B, 1, h, w), `scale` (B, 2, h, w), `offset` (B, 2, h, w) and `landmarks`
            (B, 10, h, w), float32.
        row: Which picture.
        least_score: Peaks below are ignored.
        limit: Most candidates returned.
    """
    heat = np.asarray(maps["heatmap"][row, 0], np.float32)
    peaks = (heat >= least_score) & (heat >= cv2.dilate(heat, np.ones((3, 3), np.uint8)))
    ys, xs = np.nonzero(peaks)
    scores = heat[ys, xs]
    best = np.argsort(-scores, kind="stable")[:limit]
    ys, xs, scores = ys[best], xs[best], scores[best]
    scale = np.asarray(maps["scale"][row][:, ys, xs], np.float32).clip(max=_MAX_LOG_CELLS)
    high, wide = np.exp(scale) * _CELL_PX  # (N,) each
    shift_y, shift_x = np.asarray(maps["offset"][row][:, ys, xs], np.float32)
    left = (xs + shift_x + 0.5) * _CELL_PX - wide / 2
    top = (ys + shift_y + 0.5) * _CELL_PX - high / 2
    shares = np.asarray(maps["landmarks"][row][:, ys, xs], np.float32).T.reshape(-1, 5, 2)  # y, x
    landmarks = np.stack(
        [left[:, None] + shares[..., 1] * wide[:, None], top[:, None] + shares[..., 0] * high[:, None]], axis=2
    )
    boxes = np.stack([left, top, left + wide, top + high], axis=1)
    return Candidates(boxes.astype(np.float32), landmarks.astype(np.float32), scores)


def suppress(
    candidates: Candidates, *, max_overlap: float, max_inside: float = 1.0, limit: int | None = None
) -> Candidates:
    """Keep the best of candidates that show the same thing, best first.

    Args:
        candidates: In any order; of equal scores the earlier one wins.
        max_overlap: Largest intersection over union of two that are kept.
        max_inside: Largest share of the smaller one's area that may lie in the other. This removes faces seen in the
            eyes or the mouth of a large face, whose overlap in the first sense is small.
        limit: Most candidates kept.
    """
    boxes = candidates.boxes.astype(np.float64)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    waiting = np.argsort(-candidates.scores, kind="stable")
    kept: list[int] = []
    while len(waiting) and (limit is None or len(kept) < limit):
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        shared = _intersections(boxes[best], boxes[waiting])
        union = areas[best] + areas[waiting] - shared
        smaller = np.minimum(areas[best], areas[waiting])
        waiting = waiting[(shared <= max_overlap * union) & (shared <= max_inside * smaller)]
    return candidates.take(kept)


def overlaps(box: F32Array, boxes: F32Array) -> F32Array:
    """(N,) intersection over union of one box with each of (N, 4) boxes."""
    shared = _intersections(box, boxes)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    area = np.prod(np.maximum(box[2:] - box[:2], 0))
    return np.asarray(shared / np.maximum(area + areas - shared, 1e-9), np.float32)


def _intersections(box: npt.NDArray[np.floating], boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared: npt.NDArray[np.floating] = np.prod(np.maximum(high - low, 0), axis=1)
    return shared
