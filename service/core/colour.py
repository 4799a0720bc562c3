"""Colour of a restored crop: the coarse colour is the photo's, and only its detail is the networks'.

The networks saw colour photographs, and paint skin colour onto a faded, toned or nearly grey face. A degradation hardly
changes chroma at the scale of a sixteenth of the face, so what the photo has there is kept, as diffusion restorers keep
it by wavelets (StableSR, Wang et al., 2024); brightness, which degradations do change, is left alone. What is another
picture than the photo at that scale is no restoration of it.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from service.core.types import F32Array, U8Image

_CELLS = 32  # along a side: what counts as coarse
_BLUR_CELLS = 2.5  # sigma
_SHIFT_BLUR_CELLS = 1.0  # sigma, where pictures are compared
_REACH = 0.82  # of what is pasted of a crop, as a superellipse: beyond, the photo shows
_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
_NEUTRAL_SPREAD = 3  # largest difference between the channels of a crop without colour


def luma(image: F32Array) -> F32Array:
    """Brightness of (H, W, 3) RGB with the weights of ITU-R BT.601: (H, W), in the same range."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)


def with_colour_of(restored: F32Array, photo: U8Image) -> F32Array:
    """The restored crop with the coarse chroma of the photo's.

    Chroma is the difference from the luma. Its coarse part is replaced, its fine part scaled down by as much as the
    coarse part varies less in the photo: a photo in one tone stays in one tone. A crop without colour gets none at all,
    whether its file is grey or has three equal channels.

    Args:
        restored: (S, S, 3) RGB in [0, 1].
        photo: (S, S, 3) RGB, the aligned crop that was restored.

    Returns:
        (S, S, 3) with the luma of `restored`, up to float32 rounding; may lie outside [0, 1] by what chroma is moved.
    """
    if _is_neutral(photo):
        return np.asarray(cv2.cvtColor(luma(restored), cv2.COLOR_GRAY2RGB), np.float32)
    found = _coarse_chroma(restored)
    wanted = _coarse_chroma(photo) / np.float32(255)
    gain = min(1.0, _variation(wanted) / max(_variation(found), 1e-6))
    moved = cv2.resize(wanted - np.float32(gain) * found, restored.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    toned = restored if gain == 1.0 else cv2.transform(restored, gain * np.eye(3) + (1 - gain) * _LUMA)
    return np.asarray(cv2.add(toned, moved, dst=moved), np.float32)


def coarse_shift(restored: F32Array, crop: U8Image) -> float:
    """The largest difference that is left of two crops in the same coarse colour when their detail is smoothed away.

    Every face gets its photo's (`with_colour_of`). A colour that went astray alone is mended by it; an edge between two
    of them can come out darker or brighter than either picture was.

    Args:
        restored: (S, S, 3) float32 RGB, in [0, 1] or a little beyond.
        crop: (S, S, 3) uint8 RGB, what it was made of.

    Returns:
        Of any channel at any place that is pasted, in [0, 1] or a little beyond; not a number if a value is none.
    """
    apart = with_colour_of(_cells(restored), crop) - _cells(crop) / np.float32(255)
    smooth = cv2.GaussianBlur(apart, (0, 0), _SHIFT_BLUR_CELLS, borderType=cv2.BORDER_REFLECT)
    return float(np.abs(np.asarray(smooth)[_pasted()]).max())


@cache
def _pasted() -> npt.NDArray[np.bool_]:
    at = np.abs((np.arange(_CELLS) + 0.5) / _CELLS * 2 - 1) ** 4
    return np.asarray(at + at[:, None] <= _REACH**4)


def _cells(picture: F32Array | U8Image) -> F32Array:
    """A picture (S, S, 3) shrunk to cells, (_CELLS, _CELLS, 3), in its own range."""
    return cv2.resize(picture, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)


def _is_neutral(crop: U8Image) -> bool:
    if np.ptp(crop[::_CELLS, ::_CELLS], axis=2).max() > _NEUTRAL_SPREAD:
        return False  # as nearly every crop in colour shows at a few pixels
    red, green, blue = cv2.split(crop)
    return all(
        float(cv2.norm(first, second, cv2.NORM_INF)) <= _NEUTRAL_SPREAD
        for first, second in ((red, green), (green, blue), (blue, red))
    )


def _coarse_chroma(image: U8Image | F32Array) -> F32Array:
    cells = _cells(image)
    chroma = cells - luma(cells)[:, :, None]
    return np.asarray(cv2.GaussianBlur(chroma, (0, 0), _BLUR_CELLS, borderType=cv2.BORDER_REFLECT), np.float32)


def _variation(cells: F32Array) -> float:
    """Root mean square distance of (H, W, 3) from its mean colour."""
    return float(np.sqrt(np.square(cells - cells.mean((0, 1))).mean()))
