"""Picture files of any kind as upright 8-bit RGB, and the pictures of a folder by name: for training and evaluation."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""


class UnreadablePicture(ValueError):
    """A picture file that cannot be used; the message names it."""


def read_rgb(source: Path | BinaryIO, name: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Decode a picture of any mode: upright, 8-bit RGB.

    Args:
        source: The file.
        name: What messages call it.
        formats: Pillow's names of those that are read; None reads all.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadablePicture: It cannot be decoded.
    """
    try:
        with Image.open(source, formats=formats) as image:
            return to_rgb(image)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        kinds = "picture" if formats is None else "JPEG, PNG or WebP"
        raise UnreadablePicture(f"{name} cannot be read: it is no {kinds}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadablePicture(f"{name} cannot be read: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB, turned as its EXIF orientation says.

    Alpha is dropped, and 16 bits of grey become the nearest of 8.
    """
    image.load()  # before EXIF is asked for: a PNG may have it at the end, and a TIFF is turned by this already
    turn = _turn(image)
    if image.mode.startswith("I;16"):  # `convert` would cut off all above 255
        levels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def pictures_in(folder: Path) -> dict[str, Path]:
    """Pictures directly in a folder by name, sorted; what macOS writes beside a file (`._*`) is passed over.

    Raises:
        ValueError: The folder does not exist, or two pictures have one name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not is_resource_fork(path) and path.is_file():
            if path.stem in pictures:
                raise ValueError(f"{path} and {pictures[path.stem]} have one name")
            pictures[path.stem] = path
    return pictures


def is_resource_fork(path: Path) -> bool:
    """Whether macOS wrote a file beside another, under its name."""
    return path.name.startswith("._")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, OSError, struct.error):  # damaged EXIF says nothing
        return None
