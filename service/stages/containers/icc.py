"""ICC profiles: which pixels one describes, sRGB where it cannot be kept, and one made of primaries and a curve.

Whoever sent a photo wrote its profile. LittleCMS, which a small file can keep busy for minutes, reads it only where
CMYK is decoded, in a process that can be lost; all else is read here.
"""

from __future__ import annotations

import io
import struct
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

ColourSpace = Literal["RGB", "GRAY", "CMYK"]
Chromaticities = tuple[float, float, float, float, float, float, float, float]  #: x, y of white, red, green, blue
Curve = tuple[float] | tuple[float, float, float, float, float]  #: g, or g, a, b, c, d of ICC's parametric curves 0, 3

_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_MAX_COLORANT = 4.0  # above, the primaries lie on a line or nearly so
_MAX_TAGS = 100  # a display profile has some twenty
_PARAMETERS = (1, 3, 4, 5, 7)  # of ICC's parametric curves
_STRAIGHT = (
    b"curv" + bytes(8),
    b"curv" + bytes(7) + b"\1\1\0",
    b"para" + bytes(9) + b"\1\0\0",
)  # power 1, by three ways


def profile_for(profile: bytes | None, space: ColourSpace) -> bytes | None:
    """The profile, if it is plausible and describes pixels of this colour space, else None.

    A profile of another space does not belong to the pixels (viewers ignore or misread it), so it is dropped.
    """
    if profile is None or len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    if int.from_bytes(profile[:4], "big") > len(profile):
        return None
    return profile if profile[16:20] == space.encode().ljust(4) else None


def is_linear(profile: bytes) -> bool:
    """Whether samples are in proportion to light, by the curve of red or of grey; a profile of tables has none."""
    return _tag(profile, b"rTRC", b"kTRC").startswith(_STRAIGHT)


def grey_light(profile: bytes) -> npt.NDArray[np.float64] | None:
    """Light, 0 to 1, of the 256 samples that a grey pixel of 8 bits may have.

    Returns:
        (256,), or None where the profile has no curve that can be read, as one of tables alone.
    """
    with np.errstate(all="ignore"):
        values = _curve(_tag(profile, b"kTRC"), np.linspace(0, 1, 256))
    if values is None:
        return None
    values = np.nan_to_num(values).clip(0, 1)
    if profile[20:24] == b"Lab ":
        root = (100 * values + 16) / 116
        values = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 3 * (6 / 29) ** 2)
    return values


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a CMYK picture to RGB of sRGB, by its profile, or arithmetically without a usable one."""
    usable = profile_for(profile, "CMYK")
    if usable is not None:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(usable)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def matrix_profile(curve: Curve, primaries: Chromaticities | None) -> bytes | None:
    """A profile of version 4 for display pixels.

    Args:
        curve: From samples to light, both 0 to 1.
        primaries: Of RGB pixels; None for grey ones.

    Returns:
        None where the primaries span no colours.
    """
    tone = b"para\0\0\0\0" + struct.pack(">HH", 0 if len(curve) == 1 else 3, 0) + _fixed(*curve)
    tags = {b"desc": _text("As the PNG file states"), b"cprt": _text("No copyright"), b"wtpt": _xyz(*_D50)}
    if primaries is None:
        tags[b"kTRC"] = tone
    else:
        found = _colorants(primaries)
        if found is None:
            return None
        colorants, adaptation = found
        tags[b"chad"] = b"sf32\0\0\0\0" + _fixed(*adaptation.flat)
        for index, letter in enumerate((b"r", b"g", b"b")):
            tags[letter + b"XYZ"] = _xyz(*colorants[:, index])
            tags[letter + b"TRC"] = tone
    table, values = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(values), len(value))
        values += value + bytes(-len(value) % 4)
    space = b"GRAY" if primaries is None else b"RGB "
    header = struct.pack(">I4xI4s4s4s", 128 + len(table) + len(values), 0x04300000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*_D50)
    return header.ljust(128, b"\0") + table + values


def _tag(profile: bytes, *names: bytes) -> bytes:
    """The profile from the first tag of these names on; empty where it has none."""
    for at in range(132, 132 + 12 * min(int.from_bytes(profile[128:132], "big"), _MAX_TAGS), 12):
        if profile[at : at + 4] in names:
            return profile[int.from_bytes(profile[at + 4 : at + 8], "big") :]
    return b""


def _curve(tag: bytes, samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """What a curve makes of samples, which may be no numbers; None where this is no curve or it is cut short."""
    kind, count = tag[:4], int.from_bytes(tag[8:12], "big")
    if kind == b"curv" and len(tag) >= 12 + 2 * count:
        values = np.frombuffer(tag, ">u2", count, 12).astype(np.float64)
        if count < 2:
            return samples if count == 0 else samples ** (values[0] / 256)
        return np.interp(samples, np.linspace(0, 1, count), values / 65_535)
    function = count >> 16
    if kind != b"para" or function >= len(_PARAMETERS) or len(tag) < 12 + 4 * _PARAMETERS[function]:
        return None
    g, *rest = np.frombuffer(tag, ">i4", _PARAMETERS[function], 12) / 65_536
    a, b, c, d, e, f = [*rest, *np.zeros(6 - len(rest))] if rest else (1.0, *np.zeros(5))
    if function in (1, 2):
        c, d, e, f = np.float64(0), -b / a, c, c
    return np.asarray(np.where(samples >= d, np.maximum(a * samples + b, 0) ** g + e, c * samples + f), np.float64)


def _colorants(primaries: Chromaticities) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """XYZ of the primaries as columns, seen under D50, and the adaptation from their white."""
    xy = np.array(primaries).reshape(4, 2)
    white, *rgb = np.column_stack([xy, 1 - xy.sum(axis=1)])
    if white[1] <= 0 or abs(np.linalg.det(rgb)) < 1e-6:
        return None
    white = white / white[1]
    colorants = np.transpose(rgb) * np.linalg.solve(np.transpose(rgb), white)
    if (_BRADFORD @ white).min() <= 0:
        return None
    adaptation = np.linalg.solve(_BRADFORD, np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white)) @ _BRADFORD)
    adapted = adaptation @ colorants
    if max(np.abs(adapted).max(), np.abs(adaptation).max()) > _MAX_COLORANT:
        return None
    return adapted, adaptation


def _fixed(*values: float) -> bytes:
    """ICC's s15Fixed16 numbers."""
    return struct.pack(f">{len(values)}i", *(round(value * 65_536) for value in values))


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _text(words: str) -> bytes:
    data = words.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(data), 28) + data
