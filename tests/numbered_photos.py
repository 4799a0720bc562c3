"""Photos of one face that carry a number, so that a result shows whose it is.

Bits are blocks of 8 x 8 pixels, dark or light: the number, its complement, and both again. The networks of
`tests.running_bundle` leave blocks what they are, in other shades.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.pictures import decoded, encoded

_SIDE_BLOCKS = 8
_BLOCK_PX = 8
_BITS = 16
_DARK, _LIGHT = 60, 200


def numbered(number: int) -> bytes:
    """A PNG of 64 x 64 pixels that carries a number below 65536."""
    bits = np.array([number >> place & 1 for place in range(_BITS)])
    blocks = np.tile(np.concatenate([bits, 1 - bits]), 2).reshape(_SIDE_BLOCKS, _SIDE_BLOCKS)
    levels = np.where(blocks == 1, _LIGHT, _DARK).astype(np.uint8)
    return encoded(np.repeat(np.repeat(np.repeat(levels[..., None], 3, axis=2), _BLOCK_PX, 0), _BLOCK_PX, 1))


def number_of(result: bytes) -> int:
    """The number that a result carries.

    Raises:
        ValueError: There is none, or parts of several.
    """
    levels = _levels(result)
    bits = (levels > (levels.min() + levels.max()) / 2).reshape(2, 2, _BITS)
    value, complement = bits[:, 0], bits[:, 1]
    if (value[0] != value[1]).any() or (value == complement).any():
        raise ValueError(f"no number in {levels.round()}")
    return int(value[0] @ (1 << np.arange(_BITS)))


def is_restored(result: bytes) -> bool:
    """Whether the networks have had it: they make it lighter, and its contrast smaller or greater."""
    return bool(_levels(result).min() > _DARK + 5)


def _levels(picture: bytes) -> npt.NDArray[np.float64]:
    pixels = decoded(picture).astype(float).mean(axis=2)
    blocks = pixels.reshape(_SIDE_BLOCKS, _BLOCK_PX, _SIDE_BLOCKS, _BLOCK_PX)
    return blocks[:, 2:-2, :, 2:-2].mean(axis=(1, 3))
