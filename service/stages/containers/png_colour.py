"""Colours that a PNG file states in chunks -> the ICC profile that states them in a JPEG or WebP file.

And whether they are in linear light.
"""

from __future__ import annotations

import struct

from service.stages.containers.icc import Chromaticities, Curve, matrix_profile
from service.stages.containers.png_chunks import unpack

_D65, _DCI_WHITE = (0.3127, 0.3290), (0.314, 0.351)
_BT709: Chromaticities = (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_BT601_525: Chromaticities = (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)
_P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
_SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT1886_CURVE: Curve = (2.4,)  # how displays show what cameras of BT.709, 601 and 2020 encode; browsers take it, too
_LINEAR = 8
# By the numbers of ITU-T H.273. PQ and HLG (16, 18) have no place in a profile of this kind.
_PRIMARIES: dict[int, Chromaticities] = {
    1: _BT709,
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: _BT601_525,
    7: _BT601_525,
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (*_DCI_WHITE, *_P3),
    12: (*_D65, *_P3),
}
_CURVES: dict[int, Curve] = {
    1: _BT1886_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: _BT1886_CURVE,
    _LINEAR: (1.0,),
    13: _SRGB_CURVE,
    14: _BT1886_CURVE,
    15: _BT1886_CURVE,
}
_SRGB_GAMMA = 45_455  # what writers of sRGB add for readers of gAMA alone
_GAMMA_UNIT = 100_000
_GAMMAS = range(10_000, 1_000_001)  # exponents of 10 to 0.1


def profile_of_chunks(packed: bytes, *, grey: bool) -> bytes | None:
    """The profile of pixels with these chunks.

    Args:
        packed: Chunks as `png_chunks` packs them.
        grey: The pixels have one channel.

    Returns:
        None for sRGB, which files without a profile are taken for, and for what no matrix and curve can tell. Of cICP
        a profile is made of sRGB, too, as it must take the place of one that says otherwise.
    """
    chunks = unpack(packed)
    if b"cICP" in chunks:
        primaries_code, curve_code, matrix, full_range = chunks[b"cICP"]
        primaries, curve = _PRIMARIES.get(primaries_code), _CURVES.get(curve_code)
        if primaries is None or curve is None or matrix != 0 or full_range != 1:
            return None
    elif b"sRGB" in chunks:
        return None
    else:
        primaries, curve = _stated_primaries(chunks), _stated_curve(chunks)
        if curve == _SRGB_CURVE and (grey or primaries == _BT709):
            return None
    return matrix_profile(curve, None if grey else primaries)


def states_linear(packed: bytes) -> bool | None:
    """Whether pixels with these chunks are in linear light; None where the chunks do not say, but a profile may."""
    chunks = unpack(packed)
    if b"cICP" in chunks:
        return chunks[b"cICP"][1] == _LINEAR
    if b"sRGB" in chunks:
        return False
    return _stated_curve(chunks) == (1.0,) if b"gAMA" in chunks else None


def _stated_primaries(chunks: dict[bytes, bytes]) -> Chromaticities:
    if b"cHRM" not in chunks:
        return _BT709
    white_x, white_y, red_x, red_y, green_x, green_y, blue_x, blue_y = (
        value / _GAMMA_UNIT for value in struct.unpack(">8I", chunks[b"cHRM"])
    )
    return (white_x, white_y, red_x, red_y, green_x, green_y, blue_x, blue_y)


def _stated_curve(chunks: dict[bytes, bytes]) -> Curve:
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
    return _SRGB_CURVE if gamma == _SRGB_GAMMA or gamma not in _GAMMAS else (_GAMMA_UNIT / gamma,)
