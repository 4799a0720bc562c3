"""Paste: restored crops -> the photo, touching nothing but the faces.

The result is worked on in cells of a fixed grid, and only where a cell meets a face: memory beyond the result itself
does not grow with the photo, and every pixel is read once and written once, whatever overlaps.

A restored crop replaces the face under it, also where the face in the photo is larger than the crop: the photo's
detail that is finer than the crop's holds the noise and compression marks that a restoration is asked to remove. Hair
and background inside the mask keep that detail (`service.stages.finer`), as they do outside of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import cv2
import numpy as np

from service.core.types import AlignedFace, Background, DecodedImage, F32Array
from service.stages.enlarge import enlarged
from service.stages.finer import finer_kept
from service.stages.light import is_linear
from service.stages.samples import Samples, read_only, writable
from service.stages.tone import in_photo
from service.stages.warp import F64Matrix, bounds, compose, invert, scaling, translation, warp

_CELL_PX = 512
_MASK_EDGE = 0.96  # of half the crop's side: the mask is zero from here to the border
_MASK_CORE = 0.68  # and one up to here
_MASK_POWER = 4  # a superellipse between an ellipse (2) and a square


@dataclass(frozen=True, slots=True)
class _Box:
    """Pixels left <= x < right, top <= y < bottom."""

    left: int
    top: int
    right: int
    bottom: int

    def meet(self, other: _Box) -> _Box:
        return _Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def join(self, other: _Box) -> _Box:
        return _Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    @property
    def empty(self) -> bool:
        return self.left >= self.right or self.top >= self.bottom

    def within(self, outer: _Box) -> tuple[slice, slice]:
        """Rows and columns of this box in an array that holds `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True, slots=True)
class _Layer:
    """A restored crop with its place.

    Attributes:
        crop: (S, S, 3) in the result's range; less `kept` times the crop as it was cut.
        mask: (S, S), in [0, 1]; None is one everywhere.
        kept: (S, S), in [0, 1], how much of the photo is added to `crop`; None is nothing.
        affine: (2, 3), crop to result.
        box: What it reaches in the result.
    """

    crop: F32Array
    mask: F32Array | None
    kept: F32Array | None
    affine: F64Matrix
    box: _Box


def paste(
    image: DecodedImage,
    faces: Sequence[tuple[AlignedFace, F32Array]],
    *,
    upscale: float,
    background: Background,
    consume: bool = False,
) -> DecodedImage:
    """Put restored crops back where they were cut.

    At `upscale` 1 every pixel outside the faces' masks is the photo's own. Otherwise the photo is resized and the crops
    go straight to their place in the enlarged photo. A mask fades out well inside its crop; where faces overlap they
    are mixed by their masks, independent of the order of `faces`. A photo that was itself the crop (`face` None) is
    replaced as a whole. What is transparent keeps its colour.

    Args:
        image: The photo; not changed unless `consume` says so.
        faces: Crops with their restored versions, (S, S, 3) RGB in [0, 1], finite; values beyond are clipped.
        upscale: Size of the result over the size of the photo, at least 1.
        background: How the photo around the faces is resized.
        consume: The caller gives the photo up: at `upscale` 1 its array becomes the result's, and no copy is made (most
            of the time of a large photo).

    Returns:
        The result in the photo's dtype; profile, EXIF and format are the photo's, alpha is resized with it.

    Raises:
        ValueError: A restored crop has another shape than its aligned one.
    """
    if upscale == 1:
        canvas, alpha = writable(image.pixels) if consume else image.pixels.copy(), image.alpha
    else:
        canvas, alpha = enlarged(image.pixels, image.alpha, upscale, background)
    height, width = canvas.shape[:2]
    enlarge = scaling(width / image.pixels.shape[1], height / image.pixels.shape[0])
    frame = _Box(0, 0, width, height)
    ordered = sorted(faces, key=lambda pair: pair[0].index)
    layers = [_layer(aligned, restored, image, enlarge, frame) for aligned, restored in ordered]
    for cell, present in _cells([layer for layer in layers if not layer.box.empty]):
        area, opacity = canvas[cell.within(frame)], None if alpha is None else alpha[cell.within(frame)]
        _store(_blend(area.astype(np.float32), cell, present), area, opacity)
    return replace(image, pixels=read_only(canvas), alpha=alpha)


@lru_cache(maxsize=8)
def face_mask(size_px: int) -> F32Array:
    """Weight of a restored crop of (S, S), in [0, 1]: one over the face, smoothly to zero before the border.

    Returns:
        (S, S) float32, read-only: the array is shared.
    """
    axis = np.abs((np.arange(size_px) + 0.5) / size_px * 2 - 1)
    radius = (axis[:, None] ** _MASK_POWER + axis[None, :] ** _MASK_POWER) ** (1 / _MASK_POWER)
    fade = np.clip((_MASK_EDGE - radius) / (_MASK_EDGE - _MASK_CORE), 0, 1)
    mask: F32Array = (fade**3 * (fade * (6 * fade - 15) + 10)).astype(np.float32)
    mask.setflags(write=False)
    return mask


def _layer(aligned: AlignedFace, restored: F32Array, image: DecodedImage, enlarge: F64Matrix, frame: _Box) -> _Layer:
    if restored.shape != aligned.crop.shape:
        raise ValueError(f"the restored crop is {restored.shape}, the aligned one {aligned.crop.shape}")
    kept = finer_kept(aligned)
    crop = np.clip(restored, 0, 1, dtype=np.float32)
    if kept is not None:
        seen = aligned.crop.astype(np.float32) / np.float32(255)
        crop -= kept[:, :, None] * in_photo(seen, aligned, is_linear=is_linear(image))
    crop *= np.float32(np.iinfo(image.pixels.dtype).max)
    affine = compose(enlarge, invert(aligned.affine))
    side_px = aligned.crop.shape[0]
    reach = 1.0
    mask = None
    if aligned.face is not None:
        mask, reach = face_mask(side_px), _MASK_EDGE
    inset = (1 - reach) * side_px / 2
    left, top, right, bottom = bounds(compose(affine, translation(inset, inset)), side_px * reach, side_px * reach)
    box = _Box(int(np.floor(left)), int(np.floor(top)), int(np.ceil(right)) + 1, int(np.ceil(bottom)) + 1)
    return _Layer(crop=crop, mask=mask, kept=kept, affine=affine, box=box.meet(frame))


def _cells(layers: Sequence[_Layer]) -> Iterator[tuple[_Box, list[_Layer]]]:
    """The parts of a fixed grid that any layer reaches, each with its layers."""
    found: dict[tuple[int, int], list[_Layer]] = {}
    for layer in layers:
        for row in range(layer.box.top // _CELL_PX, (layer.box.bottom - 1) // _CELL_PX + 1):
            for column in range(layer.box.left // _CELL_PX, (layer.box.right - 1) // _CELL_PX + 1):
                found.setdefault((row, column), []).append(layer)
    for (row, column), present in found.items():
        reached = present[0].box
        for layer in present[1:]:
            reached = reached.join(layer.box)
        left, top = column * _CELL_PX, row * _CELL_PX
        yield reached.meet(_Box(left, top, left + _CELL_PX, top + _CELL_PX)), present


def _blend(photo: F32Array, cell: _Box, layers: Sequence[_Layer]) -> F32Array:
    """The photo's cell with the layers over it; where all masks are zero, exactly the photo's values."""
    if all(first.box.meet(second.box).empty for first, second in combinations(layers, 2)):
        for layer in layers:
            _cover(photo, cell, layer)
        return photo
    total = np.zeros_like(photo)
    weight = np.zeros(photo.shape[:2], np.float32)
    remaining = np.ones_like(weight)
    for layer in layers:
        place = layer.box.meet(cell)
        mask = _rendered_mask(layer, place)
        if mask is None:
            mask = np.ones((place.bottom - place.top, place.right - place.left), np.float32)
        if mask.any():
            at = place.within(cell)
            total[at] += _rendered(layer, place, photo[at]) * mask[:, :, None]
            weight[at] += mask
            remaining[at] *= 1 - mask
    mean = total / np.maximum(weight, np.finfo(np.float32).tiny)[:, :, None]
    return np.asarray(photo * remaining[:, :, None] + mean * (1 - remaining)[:, :, None], np.float32)


def _cover(photo: F32Array, cell: _Box, layer: _Layer) -> None:
    """Lay one crop over the photo's cell, in place."""
    place = layer.box.meet(cell)
    area = photo[place.within(cell)]
    mask = _rendered_mask(layer, place)
    if mask is None:
        area[...] = _rendered(layer, place, area)
    elif mask.any():
        change = _rendered(layer, place, area)
        change -= area
        change *= mask[:, :, None]
        area += change


def _rendered(layer: _Layer, place: _Box, area: F32Array) -> F32Array:
    """A layer's pixels over `place`, which its crop must reach and where the photo has `area`."""
    affine = compose(translation(-place.left, -place.top), layer.affine)
    size = (place.right - place.left, place.bottom - place.top)
    pixels = warp(layer.crop, affine, *size)
    if layer.kept is not None:
        kept = warp(layer.kept, affine, *size)  # sampled as what `crop` is less by it
        if kept.any():
            pixels += area * cv2.merge([kept] * 3)  # in half the time that broadcasting takes
    return pixels


def _rendered_mask(layer: _Layer, place: _Box) -> F32Array | None:
    """A layer's mask over `place`; linear sampling suits it, being smooth."""
    if layer.mask is None:
        return None
    affine = compose(translation(-place.left, -place.top), layer.affine)
    size = (place.right - place.left, place.bottom - place.top)
    mask = cv2.warpAffine(layer.mask, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return mask.astype(np.float32, copy=False)


def _store(values: F32Array, area: Samples, opacity: Samples | None) -> None:
    """Write a cell of the result, but for what is transparent in it."""
    np.rint(values, out=values)
    np.clip(values, 0, np.iinfo(area.dtype).max, out=values)
    if opacity is None:
        area[...] = values
    else:
        np.copyto(area, values, where=(opacity > 0)[:, :, None], casting="unsafe")
