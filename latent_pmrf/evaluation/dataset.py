"""Validation faces: `clean/NAME.*` and `LEVEL/NAME.*`, shrunk to a bundle's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latent_pmrf.data.pictures import pictures_in
from latent_pmrf.evaluation.folders import CLEAN, read_face, spread

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
        ValueError: There are no faces, one lacks a degraded version, or a picture cannot be read, is not square or is
            smaller than `size_px`.
    """
    clean = pictures_in(root / CLEAN)
    if not clean:
        raise ValueError(f"no faces in {root / CLEAN}")
    levels = {level: pictures_in(root / level) for level in LEVELS}
    names = [list(clean)[index] for index in spread(len(clean), limit)]
    for level, pictures in levels.items():
        if lonely := [name for name in names if name not in pictures]:
            raise ValueError(f"{clean[lonely[0]]} has no degraded version in {root / level}")
    return [
        ValidationFace(
            name=name,
            source_set=name.rpartition("_")[0] or name,
            clean=read_face(clean[name], size_px),
            degraded={level: read_face(pictures[name], size_px) for level, pictures in levels.items()},
        )
        for name in names
    ]
