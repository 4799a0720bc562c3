"""Photos to send: scikit-image's astronaut (NASA, public domain) as a small part of larger scenes."""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from skimage.data import astronaut

U8Image = npt.NDArray[np.uint8]

_PORTRAIT_BOX = (100, 0, 356, 256)
_SCENE_SEED = 5


def portrait_photo() -> U8Image:
    """(512, 512, 3) uint8 RGB: Eileen Collins in front of a shuttle model."""
    return np.asarray(astronaut(), dtype=np.uint8)  # type: ignore[no-untyped-call] # scikit-image's annotation


def scene(megapixels: float, faces: int, face_px: int = 300, *, seed: int = 0) -> U8Image:
    """A 4:3 photo with `faces` degraded copies of one portrait on a cloudy background.

    Args:
        megapixels: Size of the photo.
        faces: Portraits in it, in a grid.
        face_px: Side of the square that holds one portrait; its face is about a third of it wide.
        seed: Another number gives another background.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The portraits do not fit.
    """
    height = round(math.sqrt(megapixels * 1e6 * 3 / 4))
    width = round(height * 4 / 3)
    columns = max(1, width // face_px)
    if faces > columns * (height // face_px):
        raise ValueError(f"{faces} portraits of {face_px} px do not fit into {width} x {height}")
    rng = np.random.default_rng((_SCENE_SEED, seed))
    clouds = Image.fromarray(rng.integers(60, 196, (9, 12, 3), dtype=np.uint8))
    canvas = np.array(clouds.resize((width, height), Image.Resampling.BICUBIC))
    portrait = _soft_portrait(face_px)
    for index in range(faces):
        row, column = divmod(index, columns)
        canvas[row * face_px : (row + 1) * face_px, column * face_px : (column + 1) * face_px] = portrait
    return canvas


def jpeg(picture: U8Image, quality: int = 92) -> bytes:
    """A JPEG file of an RGB picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _soft_portrait(side_px: int) -> U8Image:
    portrait = Image.fromarray(portrait_photo()).crop(_PORTRAIT_BOX)
    blurred = portrait.filter(ImageFilter.GaussianBlur(2)).resize((side_px, side_px), Image.Resampling.BICUBIC)
    return np.asarray(blurred)
