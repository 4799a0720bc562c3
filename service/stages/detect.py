"""Detect: pixels -> Face, for every face of the photo; then which of them are restored.

    photo -> pyramid -> tiles -> network -> proposals -> a view of each -> network -> faces

The first pass looks at the whole photo at scales a factor of four apart, the finest just fine enough for the smallest
face asked for, and takes every faint hint of a face. The second looks at each hint again, enlarged or shrunken to the
size the network knows best. That makes the first pass cheap, scores of small and large faces comparable, and landmarks
as exact as the network can tell them. Tilted faces, and those that the network is unsure of, get a third look, turned
upright: they may lie on their side or their head. The network sees tiles of bounded size, so its memory does not grow
with the photo.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from service.core.detector import DETECTOR, MAX_ROWS
from service.core.interfaces import InferenceBackend
from service.core.types import F32Array, Face, FaceSelection, RestoreOptions, U8Image
from service.stages import centerface, pyramid
from service.stages.centerface import Candidates
from service.stages.pyramid import Level, Tile
from service.stages.samples import Samples, to_8bit
from service.stages.warp import F64Matrix, compose, invert, translation, warp

# First pass. Measured with faces pasted into photographs: at 14 px of box width 95 % give such a hint, at 17 px all do.
# A lower score finds little more, and the second pass then lets a ghost pass here and there.
_PROPOSAL_WIDTH_PX = 14
_CERTAIN_WIDTH_PX = 20
_PROPOSAL_SCORE = 0.05
_LEVEL_STEP = 4.0
_COARSEST_PX = 256
_FINEST_SCALE = 1.0  # smaller faces than `_PROPOSAL_WIDTH_PX` hold nothing to restore
_LARGEST_ZOOM = 4.0  # of photos smaller than the coarsest level
_MAX_TILE_AREA_PX = 640_000  # some 80 MB of activations
_TILE_OVERLAP_PX = 48
_MARGIN_PX = 16
_MAX_PROPOSALS = 256
# Second pass: the face fills half of the view.
_VIEW_PX = 128
_VIEW_CONTEXT = 2.0
_SAME_FACE = 0.3  # overlap of what is looked at again and what its view shows

# Third pass. Without it landmarks of a face tilted by 30 degrees were off twice as far as those of an upright one.
# Without quarter turns 26 % of 36 faces, clean and degraded, turned in steps of 30 degrees were not found, and 10 % had
# landmarks of another turn; with them 6 and 1 %.
_TILTED_DEGREES = 8.0
_QUARTER_TURNS = (math.pi / 2, math.pi, -math.pi / 2)
_CERTAIN_SCORE = 0.88
_GAIN_SHARE = 0.75  # with all of the gain one ghost was seen in the worst photographs

_MAX_OVERLAP = 0.4
_MAX_INSIDE = 0.7

_Views = tuple[F32Array, Sequence[F64Matrix]]
"""Views as the network takes them, and of each the map to the photo."""


class FaceDetector:
    """Finds faces with CenterFace; holds nothing of a photo, so calls may run side by side.

    Args:
        backend: Runs the network `detector`: `image` (B, 3, H, W) float32 in, see `service.stages.centerface` for the
            maps it gives.
    """

    def __init__(self, backend: InferenceBackend) -> None:
        self._backend = backend

    async def detect(self, pixels: Samples, *, det_threshold: float, min_face_px: int) -> list[Face]:
        """Every face of a photo, (H, W, 3) RGB, uint8 or uint16, of any size.

        Faces down to `min_face_px` are searched for (never below 14 px); smaller ones that are seen all the same are in
        the result too. Larger values are faster.

        Returns:
            Faces by the area of their boxes, largest first. Boxes end at the photo's border, landmarks may lie beyond.

        Raises:
            InferenceFailed: The network failed.
            DependencyUnavailable: The server behind the backend does not answer.
        """
        photo, levels = await asyncio.to_thread(_levels, pixels, min_face_px)
        proposals = await self._propose(levels)
        found = await self._look_closer([Level(photo, (1.0, 1.0)), *levels], proposals)
        height, width = photo.shape[:2]
        once = centerface.suppress(_within(found, width, height), max_overlap=_MAX_OVERLAP)
        upright = _within(await self._look_upright(photo, once), width, height)
        sure = upright.take(np.nonzero(upright.scores >= det_threshold)[0])
        return _to_faces(centerface.suppress(sure, max_overlap=_MAX_OVERLAP, max_inside=_MAX_INSIDE), width, height)

    async def _propose(self, levels: Sequence[Level]) -> Candidates:
        """First pass: hints of faces at every scale, in the photo's coordinates."""
        hints = []
        for level in levels:
            for tile in pyramid.tiles(
                level,
                max_area_px=_MAX_TILE_AREA_PX,
                overlap_px=_TILE_OVERLAP_PX,
                margin_px=_MARGIN_PX,
                multiple_px=centerface.SIDE_MULTIPLE_PX,
            ):
                image = await asyncio.to_thread(_tile_tensor, level, tile)
                (seen,) = await self._seen(image, _MAX_PROPOSALS)
                hints.append(seen.mapped(_onto_photo(level, (tile.left, tile.top), 1.0)))
        return centerface.suppress(centerface.join(hints), max_overlap=_MAX_OVERLAP, limit=_MAX_PROPOSALS)

    async def _look_closer(self, sources: Sequence[Level], proposals: Candidates) -> Candidates:
        """Second pass: each proposal again at the best size; those that turn out to be nothing are dropped."""
        boxes = proposals.boxes
        return centerface.join(await self._look(boxes, lambda rows: _views(sources, boxes[rows])))

    async def _look_upright(self, photo: U8Image, found: Candidates) -> Candidates:
        """Third pass: faces that are not upright, from views that are turned.

        The network is unsure of a face that lies on its side or its head, and what it tells of its landmarks may be
        wrong by any angle: of such a one the best of four views, a quarter turn apart, is believed.
        """
        sides, seen_at = found, np.zeros(len(found))
        unsure = np.nonzero((found.scores < _CERTAIN_SCORE) | (np.abs(_tilts(found.landmarks)) > math.pi / 4))[0]
        for turn in _QUARTER_TURNS:
            view = await self._turned(photo, found.boxes[unsure], np.full(len(unsure), turn))
            better = np.nonzero(view.scores > sides.scores[unsure])[0]
            sides = sides.replaced(unsure[better], view.take(better))
            seen_at[unsure[better]] = turn
        tilts = _tilts(sides.landmarks)
        tilted = np.nonzero(np.cos(tilts - seen_at) <= math.cos(math.radians(_TILTED_DEGREES)))[0]
        view = await self._turned(photo, sides.boxes[tilted], tilts[tilted])
        shown = np.nonzero(view.scores > 0)[0]
        upright = sides.replaced(tilted[shown], view.take(shown))
        gain = np.maximum(upright.scores - found.scores, 0)
        # Boxes are upright in each view: what a view turned by less than a quarter has is no box of the photo.
        return Candidates(sides.boxes, upright.landmarks, found.scores + np.float32(_GAIN_SHARE) * gain)

    async def _turned(self, photo: U8Image, boxes: F32Array, tilts: npt.NDArray[np.float64]) -> Candidates:
        """What a view of each box, turned back by its tilt, shows in it; of score 0 where that is nothing."""
        shown = await self._look(boxes, lambda rows: _upright_views(photo, boxes[rows], tilts[rows]))
        nothing = Candidates(boxes, np.zeros((len(boxes), 5, 2), np.float32), np.zeros(len(boxes), np.float32))
        return nothing.replaced(np.flatnonzero([len(best) for best in shown]), centerface.join(shown))

    async def _look(self, boxes: F32Array, view: Callable[[slice], _Views]) -> list[Candidates]:
        """What the view of each box shows in it, in the photo's coordinates: one candidate, or none."""
        shown = []
        for first in range(0, len(boxes), MAX_ROWS):
            rows = slice(first, first + MAX_ROWS)
            pictures, affines = await asyncio.to_thread(view, rows)
            for box, affine, seen in zip(boxes[rows], affines, await self._seen(pictures, _VIEW_PX), strict=True):
                shown.append(_best_at(box, seen.mapped(affine)))
        return shown

    async def _seen(self, pictures: F32Array, limit: int) -> list[Candidates]:
        """At most so many candidates of each picture of a batch, in its coordinates."""
        maps = await self._backend.infer(DETECTOR, {"image": pictures})
        rows = range(len(pictures))
        return [centerface.read_maps(maps, row, least_score=_PROPOSAL_SCORE, limit=limit) for row in rows]


def select_faces(
    faces: Sequence[Face], options: RestoreOptions, size: tuple[int, int]
) -> list[tuple[Face, str | None]]:
    """Decide which faces of a photo are restored.

    Args:
        faces: All of them.
        options: Of those whose shorter side, rounded, has `min_face_px`, `faces` chooses all or one, and `max_faces`
            are restored, the largest first.
        size: Width and height of the photo in pixels.

    Returns:
        Every face, largest box first, with the reason why it is left out: `below_min_face_px`, `not_selected` or
        `over_max_faces`; None means it is restored.
    """
    ordered = sorted(faces, key=_area, reverse=True)
    large = [index for index, face in enumerate(ordered) if round(_least_side(face)) >= options.min_face_px]
    chosen = large
    if options.faces is FaceSelection.LARGEST:
        chosen = large[:1]
    elif options.faces is FaceSelection.CENTER:
        chosen = sorted(large, key=lambda index: _off_centre(ordered[index], size))[:1]
    reasons: list[str | None] = ["below_min_face_px"] * len(ordered)
    for index in large:
        reasons[index] = "not_selected"
    for place, index in enumerate(chosen):
        reasons[index] = "over_max_faces" if options.max_faces is not None and place >= options.max_faces else None
    return list(zip(ordered, reasons, strict=True))


def _levels(pixels: Samples, min_face_px: int) -> tuple[U8Image, list[Level]]:
    """The photo in 8 bits, and what the first pass looks at."""
    photo = to_8bit(pixels)
    height, width = photo.shape[:2]
    needed = _PROPOSAL_WIDTH_PX / max(1, min_face_px)
    # What fits one tile is cheap: small photos are looked at more finely than they must be.
    cheap = min(_CERTAIN_WIDTH_PX / max(1, min_face_px), math.sqrt(_MAX_TILE_AREA_PX / (width * height)))
    overview = min(_COARSEST_PX / max(width, height), _LARGEST_ZOOM)
    finest = max(min(max(needed, cheap), _FINEST_SCALE), overview)
    return photo, pyramid.build(photo, finest, step=_LEVEL_STEP, coarsest_px=_COARSEST_PX)


def _tile_tensor(level: Level, tile: Tile) -> F32Array:
    return centerface.to_tensor([pyramid.cut(level.picture, tile)])


def _onto_photo(level: Level, corner: tuple[float, float], zoom: float) -> F64Matrix:
    """The map to the photo of a part of a level that begins at a corner and is `zoom` times as large as it was."""
    return np.column_stack([np.diag(1 / zoom / np.array(level.scale)), np.divide(corner, level.scale)])


def _views(sources: Sequence[Level], boxes: F32Array) -> _Views:
    """Views of the second pass."""
    pictures, affines = [], []
    for left, top, right, bottom in boxes.astype(np.float64).tolist():
        side = _VIEW_CONTEXT * max(right - left, bottom - top)
        # The smallest copy of the photo that need not be enlarged.
        source = next((it for it in reversed(sources) if side * min(it.scale) >= _VIEW_PX), sources[0])
        scale = np.array(source.scale)
        side_px = max(1, round(side * float(scale.mean())))
        corner = np.round(np.array([left + right, top + bottom]) / 2 * scale - side_px / 2).astype(int)
        tile = Tile(int(corner[0]), int(corner[1]), side_px, side_px)
        pictures.append(pyramid.zoomed(source.picture, tile, _VIEW_PX))
        affines.append(_onto_photo(source, (tile.left, tile.top), _VIEW_PX / side_px))
    return centerface.to_tensor(pictures), affines


def _best_at(box: F32Array, seen: Candidates) -> Candidates:
    """The best of the candidates, which come best first, that is what the box has; or none."""
    return seen.take(np.nonzero(centerface.overlaps(box, seen.boxes) >= _SAME_FACE)[0][:1])


def _within(found: Candidates, width_px: int, height_px: int) -> Candidates:
    """Those with their middle in the photo."""
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    return found.take(np.nonzero(((middles >= 0) & (middles <= (width_px, height_px))).all(axis=1))[0])


def _tilts(landmarks: F32Array) -> npt.NDArray[np.float64]:
    """(N,) angles from upright in radians, positive where the face's left to right runs downwards in the photo."""
    points = landmarks.astype(np.float64)
    across = points[:, 1] - points[:, 0] + points[:, 4] - points[:, 3]
    down = points[:, 3] + points[:, 4] - points[:, 0] - points[:, 1]
    return np.asarray(np.arctan2(across[:, 1] - down[:, 0], across[:, 0] + down[:, 1]), np.float64)


def _upright_views(photo: U8Image, boxes: F32Array, tilts: npt.NDArray[np.float64]) -> _Views:
    """Views of the third pass."""
    pictures, affines = [], []
    for (left, top, right, bottom), tilt in zip(boxes.astype(np.float64).tolist(), tilts.tolist(), strict=True):
        scale = _VIEW_PX / (_VIEW_CONTEXT * max(right - left, bottom - top))
        turn = scale * np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
        affine = np.column_stack([turn, _VIEW_PX / 2 - turn @ ((left + right) / 2, (top + bottom) / 2)])
        # `warp` counts from the middle of the first pixel.
        centred = compose(translation(-0.5, -0.5), compose(affine, translation(0.5, 0.5)))
        pictures.append(warp(photo, centred, _VIEW_PX, _VIEW_PX))
        affines.append(invert(affine))
    return centerface.to_tensor(pictures), affines


def _to_faces(found: Candidates, width_px: int, height_px: int) -> list[Face]:
    """Faces in pixels of the photo; landmarks become places of pixel centres."""
    faces = []
    for box, landmarks, score in zip(found.boxes, found.landmarks, found.scores, strict=True):
        left, top, right, bottom = box.tolist()
        clipped = (max(left, 0.0), max(top, 0.0), min(right, float(width_px)), min(bottom, float(height_px)))
        points = landmarks - np.float32(0.5)
        points.setflags(write=False)
        faces.append(Face(clipped, points, min(1.0, float(score))))
    return sorted(faces, key=_area, reverse=True)


def _area(face: Face) -> float:
    left, top, right, bottom = face.box
    return (right - left) * (bottom - top)


def _least_side(face: Face) -> float:
    left, top, right, bottom = face.box
    return min(right - left, bottom - top)


def _off_centre(face: Face, size: tuple[int, int]) -> float:
    """Squared distance of a face from the middle of the photo."""
    left, top, right, bottom = face.box
    return ((left + right - size[0]) ** 2 + (top + bottom - size[1]) ** 2) / 4
