"""Views of a photo for the detector: a pyramid of shrunken copies, cut into tiles.

A level shows the whole photo at one scale, a tile a part of a level, with room around the photo, so that a face at the
border has something around it. Everything is 8-bit RGB; what lies outside the photo is grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from service.core.types import U8Image

_GREY = 127


@dataclass(frozen=True, slots=True)
class Level:
    """The photo at one scale.

    Attributes:
        picture: (h, w, 3) uint8.
        scale: Pixels of the level for one of the photo, in x and in y.
    """

    picture: U8Image
    scale: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a level.

    Attributes:
        left: First column; may lie outside the level.
        top: First row; may lie outside the level.
        width: Columns.
        height: Rows.
    """

    left: int
    top: int
    width: int
    height: int


def build(photo: U8Image, finest: float, *, step: float, coarsest_px: int) -> list[Level]:
    """The photo at scale `finest`, then shrunken by `step` again and again until the largest face fits the network.

    Args:
        photo: (H, W, 3) uint8.
        finest: Scale of the first level.
        step: Ratio of two levels, above 1.
        coarsest_px: The last level is the first one whose shorter side is at most this.
    """
    height, width = photo.shape[:2]
    levels = []
    picture, scale = photo, finest
    while True:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = _resized(picture, size)
        levels.append(Level(picture, (size[0] / width, size[1] / height)))
        if min(size) <= coarsest_px:
            return levels
        scale /= step


def tiles(level: Level, *, max_area_px: int, overlap_px: int, margin_px: int, multiple_px: int) -> Iterator[Tile]:
    """Equal rectangles that cover a level and a margin around it, with the least area in all.

    Args:
        level: What to cover.
        max_area_px: Most pixels of a tile.
        overlap_px: Least overlap of neighbours.
        margin_px: Least room around the level.
        multiple_px: Sides of tiles are multiples of this.
    """
    height, width = level.picture.shape[:2]
    most = max_area_px // multiple_px // multiple_px * multiple_px  # longest side that leaves room for the other
    columns = _divisions(width + 2 * margin_px, most, overlap_px, multiple_px)
    rows = _divisions(height + 2 * margin_px, most, overlap_px, multiple_px)
    choices = [(w, across, h, down) for w, across in columns for h, down in rows if w * h <= max_area_px]
    tile_width, across, tile_height, down = min(choices, key=math.prod)
    lefts, tops = _starts(width, tile_width, across, margin_px), _starts(height, tile_height, down, margin_px)
    for top in tops:
        for left in lefts:
            yield Tile(left, top, tile_width, tile_height)


def cut(picture: U8Image, tile: Tile) -> U8Image:
    """(tile.height, tile.width, 3) pixels of a picture, grey outside of it."""
    height, width = picture.shape[:2]
    x0, x1 = (min(max(x, 0), width) for x in (tile.left, tile.left + tile.width))
    y0, y1 = (min(max(y, 0), height) for y in (tile.top, tile.top + tile.height))
    view = np.full((tile.height, tile.width, 3), _GREY, np.uint8)
    view[y0 - tile.top : y1 - tile.top, x0 - tile.left : x1 - tile.left] = picture[y0:y1, x0:x1]
    return view


def zoomed(picture: U8Image, tile: Tile, side_px: int) -> U8Image:
    """(side_px, side_px, 3) view of a tile of any size."""
    return _resized(cut(picture, tile), (side_px, side_px))


def _divisions(whole_px: int, most_px: int, overlap_px: int, multiple_px: int) -> list[tuple[int, int]]:
    """Ways to cut a length: size of a part, and how many there are."""
    ways: dict[int, int] = {}
    for size in range(multiple_px, most_px + multiple_px, multiple_px):
        if size >= whole_px:
            return [*ways.items(), (size, 1)]
        if size > 2 * overlap_px:
            ways[size] = math.ceil((whole_px - overlap_px) / (size - overlap_px))
    return list(ways.items())


def _starts(length_px: int, size_px: int, count: int, margin_px: int) -> list[int]:
    """Where each part begins; a single one has the picture in its middle."""
    if count == 1:
        return [-((size_px - length_px) // 2)]
    first, last = -margin_px, length_px + margin_px - size_px
    return [first + round(index * (last - first) / (count - 1)) for index in range(count)]


def _resized(picture: U8Image, size: tuple[int, int]) -> U8Image:
    """The picture at (width, height); averaged where it shrinks."""
    height, width = picture.shape[:2]
    if size == (width, height):
        return picture
    shrinks = size[0] * size[1] < width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=method)).astype(np.uint8, copy=False)
