"""Validation faces: `clean/NAME.jpg` and `LEVEL/NAME.png`, shrunk to a bundle's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

U8Image = npt.NDArray[np.uint8]

LEVELS = ("moderate", "severe")


@dataclass(frozen=True, slots=True)
class ValidationFace:
    """One person.

    Attributes:
        name: File name without suffix.
        source_set: Where the picture is from, the part of the name before the number (`house`, `faker`, ...).
        clean: (S, S, 3) uint8 RGB.
        degraded: The same face by level, each (S, S, 3) uint8 RGB.
    """

    name: str
    source_set: str
    clean: U8Image
    degraded: Mapping[str, U8Image]


def load_faces(root: Path, size_px: int, limit: int | None = None) -> list[ValidationFace]:
    """Read the clean pictures and their degraded versions, sorted by name.

    Args:
        root: Folder with `clean`, `moderate` and `severe`.
        size_px: Side of the result; larger pictures are shrunk by Lanczos.
        limit: Take this many, spread evenly over the names, so that every source set stays.

    Raises:
        ValueError: There are no faces, one lacks a degraded version, or one is smaller than `size_px`.
    """
    paths = sorted((root / "clean").glob("*.jpg"))
    if not paths:
        raise ValueError(f"no faces in {root / 'clean'}")
    if limit is not None and limit < len(paths):
        paths = [paths[round(position)] for position in np.linspace(0, len(paths) - 1, max(1, limit))]
    return [
        ValidationFace(
            name=path.stem,
            source_set=path.stem.rpartition("_")[0] or path.stem,
            clean=_load(path, size_px),
            degraded={level: _load(root / level / f"{path.stem}.png", size_px) for level in LEVELS},
        )
        for path in paths
    ]


def shrink(image: U8Image, size_px: int) -> U8Image:
    """Shrink a square uint8 picture by Lanczos; unchanged at its own size.

    Raises:
        ValueError: The picture is not square or smaller than `size_px`.
    """
    height, width = image.shape[:2]
    if height != width or height < size_px:
        raise ValueError(f"a picture of {width}x{height} cannot be shrunk to {size_px} px a side")
    if height == size_px:
        return image
    return np.asarray(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.LANCZOS), dtype=np.uint8)


def _load(path: Path, size_px: int) -> U8Image:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    return shrink(pixels, size_px)
