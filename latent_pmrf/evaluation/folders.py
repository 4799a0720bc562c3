"""Folders of aligned faces, the user's or the project's own: which files are measured, and against which.

    DIR/clean/NAME.*  and  DIR/LEVEL/NAME.*      pairs by name, one level per further folder (`degraded`, `severe`, ...)
    DIR/NAME.*  with  --clean OTHER/NAME.*       pairs in two folders
    DIR/NAME.*  or  DIR/LEVEL/NAME.*             degraded faces alone: only measures that need no clean face

A picture is one square face, aligned to the FFHQ template. Suffixes need not agree within a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from latent_pmrf.data.pictures import pictures_in, read_rgb

U8Image = npt.NDArray[np.uint8]

CLEAN = "clean"
FLAT_LEVEL = "degraded"


@dataclass(frozen=True, slots=True)
class FaceFile:
    """One degraded face.

    Attributes:
        name: File name without suffix.
        degraded: Its picture.
        clean: The picture of the same face before it was degraded, or None where nobody has it.
    """

    name: str
    degraded: Path
    clean: Path | None


@dataclass(frozen=True, slots=True)
class FaceFolder:
    """What is measured.

    Attributes:
        levels: Faces by level, sorted by name.
        has_clean: Whether every face has a clean picture; otherwise none has.
        reference: Real faces that distributions are compared with; empty where the clean faces are.
    """

    levels: Mapping[str, tuple[FaceFile, ...]]
    has_clean: bool
    reference: tuple[Path, ...] = ()


def scan_folder(
    root: Path, clean_dir: Path | None = None, reference_dir: Path | None = None, limit: int | None = None
) -> FaceFolder:
    """Find the faces of a folder.

    Args:
        root: Folder in one of the layouts above.
        clean_dir: Folder of the clean faces where they are not in `root/clean`.
        reference_dir: Folder of real faces for distances between distributions.
        limit: Take this many of each level, spread evenly over the names.

    Raises:
        ValueError: There are no faces, two have one name, one lacks its clean picture, or the reference is too small.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    if clean_dir is None and (root / CLEAN).is_dir():
        clean_dir = root / CLEAN
    clean = None if clean_dir is None else pictures_in(clean_dir)
    reference = () if reference_dir is None else tuple(pictures_in(reference_dir).values())
    if reference_dir is not None and len(reference) < 2:
        raise ValueError(f"{reference_dir} holds {len(reference)} pictures: a reference needs at least two")
    if clean == {}:
        raise ValueError(f"no pictures in {clean_dir}")
    flat = pictures_in(root)
    folders = [] if flat else sorted(path for path in root.iterdir() if path.is_dir() and path.name != CLEAN)
    levels = {FLAT_LEVEL: flat} if flat else {path.name: pictures_in(path) for path in folders}
    found = {level: _pair(pictures, clean, limit) for level, pictures in levels.items() if pictures}
    if not found:
        raise ValueError(f"no faces in {root}: expected pictures, or a folder of pictures for each level")
    return FaceFolder(found, clean is not None, reference)


def spread(count: int, limit: int | None) -> list[int]:
    """Indices of at most `limit` of `count` things, spread evenly."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted({round(position) for position in np.linspace(0, count - 1, max(1, limit))})


def read_face(path: Path, size_px: int, *, enlarge: bool = False) -> U8Image:
    """Read an aligned face.

    Args:
        path: Picture of any mode; it is turned as its EXIF says, and alpha is dropped.
        size_px: Side of the result; larger pictures are shrunk by Lanczos.
        enlarge: Whether a smaller picture is enlarged (bicubic), as a degraded one may be.

    Returns:
        (S, S, 3) uint8 RGB.

    Raises:
        ValueError: The file holds no picture, or one that is not square or too small.
    """
    picture = read_rgb(path, str(path))
    if enlarge and picture.width == picture.height < size_px:
        picture = picture.resize((size_px, size_px), Image.Resampling.BICUBIC)
    try:
        return shrink(np.asarray(picture, dtype=np.uint8), size_px)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; evaluation takes aligned, square faces") from error


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


def _pair(degraded: Mapping[str, Path], clean: Mapping[str, Path] | None, limit: int | None) -> tuple[FaceFile, ...]:
    names = list(degraded)
    if clean is not None:
        lonely = [name for name in names if name not in clean]
        if lonely:
            raise ValueError(f"{degraded[lonely[0]]} has no clean picture ({len(lonely)} of {len(names)} have none)")
    chosen = [names[index] for index in spread(len(names), limit)]
    return tuple(FaceFile(name, degraded[name], None if clean is None else clean[name]) for name in chosen)
